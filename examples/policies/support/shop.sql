CREATE TABLE members (id TEXT PRIMARY KEY, level TEXT NOT NULL);
CREATE TABLE items (id TEXT PRIMARY KEY, product TEXT NOT NULL, stock INTEGER NOT NULL);
CREATE TABLE orders (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, status TEXT NOT NULL, payment_method TEXT NOT NULL, placed TEXT NOT NULL);
CREATE TABLE lines (order_id TEXT NOT NULL, item_id TEXT NOT NULL, PRIMARY KEY (order_id, item_id));
CREATE TABLE bookings (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, status TEXT NOT NULL, booked TEXT NOT NULL, passengers INTEGER NOT NULL);
INSERT INTO members VALUES ('user://ada', 'gold'), ('user://bob', 'regular');
INSERT INTO items VALUES ('I1', 'kettle', 4), ('I2', 'kettle', 2), ('I3', 'toaster', 9);
INSERT INTO orders VALUES
    ('A1', 'user://ada', 'delivered', 'card-1', '2026-03-01T10:00:00Z'),
    ('A2', 'user://ada', 'pending', 'card-1', '2026-03-02T10:00:00Z'),
    ('B1', 'user://bob', 'pending', 'card-9', '2026-03-02T10:00:00Z');
INSERT INTO lines VALUES ('A1', 'I1'), ('A2', 'I3'), ('B1', 'I3');
INSERT INTO bookings VALUES ('F1', 'user://ada', 'delayed', '2026-03-01T10:00:00Z', 2);
