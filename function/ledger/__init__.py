"""What was done: tickets with their rows' trails, deliveries, alerts and holds, in SQLite or
PostgreSQL."""
