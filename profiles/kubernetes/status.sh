#!/usr/bin/env bash
# status.sh JOB: running, success or failed. A question that could not be asked just now counts as running, a job that is gone as failed.
set -uo pipefail
said=$(kubectl get "$1" -o 'jsonpath={.status.conditions[?(@.status=="True")].type}' 2>&1)
case "$said" in
    *NotFound* | *Failed*) echo failed ;;
    *Complete*) echo success ;;
    *) echo running ;;
esac
