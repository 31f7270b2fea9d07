#!/bin/sh
# Measure all that benchmarks/results has of a machine: all.sh DIRECTORY [NAME...]
# NAME is a file there without its suffix; without names, all of them, in two and a half hours.
# PYTHON is the interpreter, by default that of .venv.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python} results=$1
shift
names=" $* "
four=waitress,gunicorn_sync,gunicorn_gthread,cheroot
mkdir -p "$results"

# run NAME OPTION...: unless there are other names. The output appears when it is complete.
run() {
    name=$1
    shift
    case $names in "  " | *" $name "*) ;; *) return 0 ;; esac
    echo "$name: $*" >&2
    "$python" "$@" > "$results/$name.part"
    mv "$results/$name.part" "$results/$name.txt"
}

run overhead benchmarks/overhead.py
run small_file benchmarks/small_file.py
run read_ahead benchmarks/read_ahead.py
run object_stores benchmarks/object_stores.py --repeats 3
run big -m benchmarks --long --only big --json "$results/big.json" --plots "$results"
run small -m benchmarks --long --only small --contenders bare,by_hand,ours,plain,nginx \
    --json "$results/small.json" --plots "$results"
run receivers -m benchmarks --only big --servers $four \
    --receiver discard,windows,unix,unix-nginx,veth --json "$results/receivers.json"
run cold -m benchmarks --only big --cold --servers $four,uwsgi --contenders ours,by_hand,nginx \
    --repeats 9
run offload -m benchmarks --long --servers waitress --receiver unix-nginx \
    --contenders ours,offload --json "$results/offload.json"
run sizes -m benchmarks --only big --servers waitress --contenders ours,floor \
    --size 1048576,10485760,104857600,1073741824,10737418240
run call_size -m benchmarks --only big --servers $four --receiver loopback,unix,veth \
    --contenders ours --call-size 18432,65536,262144,1048576,4194304
run background -m benchmarks --long --only big --contenders ours,worker
run readers benchmarks/slow_clients.py --only readers
run disk benchmarks/slow_clients.py --only disk
run queue benchmarks/slow_clients.py --only queue --json "$results/queue.json" --plots "$results"
run table benchmarks/slow_clients.py --only table
run stopped benchmarks/slow_clients.py --only stopped
