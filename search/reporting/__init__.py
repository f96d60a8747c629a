"""What people look at: tables, plots, the dashboard, exported configurations."""
