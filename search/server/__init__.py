"""`ztp serve`: the HTTP API, the front page, health and metrics, with the dashboard and local workers beside them.

`app` puts the web side together, `server` runs it. What a request may do is the business of `search.server.access`.
"""
