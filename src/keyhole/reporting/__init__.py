"""Tables, figures, pictures and the report. Torch is never imported."""
