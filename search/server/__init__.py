"""`ztp serve`: page, HTTP API, Optuna Dashboard, health and metrics as one application, with local workers beside it.

`app` puts the web side together, `server` runs it. What a request may do is the business of `search.server.access`.
"""
