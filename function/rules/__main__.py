"""``python -m function.rules`` prints the JSON Schema of the rules file."""

import json
import sys

from function.rules.schema import schema

sys.stdout.write(json.dumps(schema(), indent=2) + "\n")
