"""What a Hasura project needs for rules from servicenow/TABLE and slack/COMMAND: the inbox, tracked
with its trigger, and the cron trigger that finds what no notification told of."""

from typing import Final

from function.hasura.views import TABLES_FOLDER

INBOX_FILE: Final = "servicenow_inbox.yaml"
CRON_FILE: Final = "metadata/cron_triggers.yaml"
INBOX: Final = """\
# The ledger's inbox: what waits to be worked. An entry is an event, which brings the work back; of
# its id alone, for where a command of Slack's is answered is a secret. No role may ask for it.
table:
  name: inbox
  schema: servicenow
event_triggers:
  - name: servicenow_inbox
    definition:
      enable_manual: false
      insert:
        columns: '*'
        payload: [id]
    retry_conf:
      num_retries: 60
      interval_sec: 60
      timeout_sec: 60
    webhook: '{{SERVICENOW_FUNCTION_URL}}'
    headers:
      - name: X-Webhook-Secret
        value_from_env: SERVICENOW_FUNCTION_SECRET
"""
SYNC: Final = """\
# What changed in ServiceNow and nobody told of: a notification is sent once.
- name: servicenow_sync
  webhook: '{{SERVICENOW_FUNCTION_URL}}'
  schedule: '*/5 * * * *'
  include_in_metadata: true
  retry_conf:
    num_retries: 1
    retry_interval_seconds: 30
    timeout_seconds: 60
    tolerance_seconds: 300
  headers:
    - name: X-Webhook-Secret
      value_from_env: SERVICENOW_FUNCTION_SECRET
"""


def printed() -> str:
    """All that is to be pasted, each file under a line with its path in the Hasura project."""
    return (
        f'# == {TABLES_FOLDER}/{INBOX_FILE}, with "!include {INBOX_FILE}" in tables.yaml\n'
        f"{INBOX}\n# == into {CRON_FILE}\n{SYNC}"
    )
