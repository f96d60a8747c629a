"""Who may read and change studies over the web: one rule for the HTTP API, the page and the dashboard.

`token` is the secret and where it comes from, `auth` judges a request, `login` is the form for browsers.
"""
