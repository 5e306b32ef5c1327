"""From run folders to an answer: report.json, the sentence, tables, figures, the page, TensorBoard's comparison."""
