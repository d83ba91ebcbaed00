"""What trainers on unlabelled data compute with: see ``utils``. Layers for networks are left out."""
