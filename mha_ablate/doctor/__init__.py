"""What this machine offers and what is missing: one fact per question, each answered on its own."""
