#!/usr/bin/env python
"""Django's command line for this project; `manage.py jobs` is ours."""

import os
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line

from esteira.errors import EsteiraError

if __name__ == "__main__":
    try:
        execute_from_command_line(sys.argv)
    except (ImproperlyConfigured, EsteiraError) as error:
        if "--traceback" in sys.argv:
            raise
        sys.exit(str(error))
