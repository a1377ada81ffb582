"""What people look at: tables, figures, pictures, the report. Never torch."""
