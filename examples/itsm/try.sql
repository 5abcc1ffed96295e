-- A deployment to production is a change request. One to staging is none.
INSERT INTO deployments (service, version, environment, planned_start, planned_end, risk, requested_by)
VALUES ('checkout', '4.2', 'production', '2027-01-12 20:00+01', '2027-01-12 21:00+01', 'high', 'beth.anglin@example.com'),
       ('checkout', '4.3', 'staging', now(), now() + interval '1 hour', 'low', 'beth.anglin@example.com');

-- It was rolled back: the change is closed as unsuccessful, through all of its states.
UPDATE deployments SET state = 'rolled_back', remark = 'Payments failed.' WHERE version = '4.2';

-- Another one,
INSERT INTO deployments (service, version, environment, requested_by)
VALUES ('search', '1.9', 'production', 'fred.luddy@example.com');

-- which is called off: its change is canceled.
UPDATE deployments SET state = 'canceled', remark = 'Not before the holidays.' WHERE version = '1.9';

-- A meeting: a ticket for each action item.
INSERT INTO meetings (title, action_items) VALUES ('Weekly', '[
  {"id": "a", "title": "Ask the supplier", "owner": "beth.anglin@example.com", "due": "2027-01-31", "done": false},
  {"id": "b", "title": "Renew the certificate", "owner": "fred.luddy@example.com"}]');

-- One item is done and one is taken off the list: both tickets are resolved. One is new.
UPDATE meetings SET action_items = '[
  {"id": "a", "title": "Ask the supplier", "owner": "beth.anglin@example.com", "due": "2027-01-31", "done": true},
  {"id": "c", "title": "Order cables"}]' WHERE title = 'Weekly';

-- The meeting is deleted: what is left is resolved.
DELETE FROM meetings WHERE title = 'Weekly';

-- Fifty reports of one critical error, and one that is not critical: one incident, of urgency 1.
INSERT INTO errors (error_key, level, message, service)
SELECT 'checkout/E1042', 'critical', 'No connection to the payment provider', 'checkout' FROM generate_series(1, 50);
INSERT INTO errors (error_key, level, message, service) VALUES ('blog/E7', 'error', 'A picture is missing', 'blog');

-- Resolve the incident on its page, then this: it is reopened.
UPDATE errors SET count = count + 1, last_seen = now() WHERE id = (SELECT max(id) FROM errors WHERE level = 'critical');
