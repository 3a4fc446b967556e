#!/bin/sh
# Runs the schedule beside this script again, with its trace. Exit code 1: it still fails.
cd "$(dirname "$0")" || exit 4
exec raftdeck sim --schedule schedule.json --trace
