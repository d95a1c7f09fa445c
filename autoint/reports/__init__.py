"""For people: tables, pictures, close-ups, metrics, the paper's numbers. They know no run and no task."""
