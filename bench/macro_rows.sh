#!/bin/sh
# What people do on a machine, row by row: bench/macro.py puts this into a Debian as /bench/run, boots
# that with it as the first process, writes the name of one row after the other to its input, and takes
# the time between the lines BEGIN and END by its own clock. `run host` is the same without a boot.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
work=/bench/work

if [ "$1" != host ]; then
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	mount -o remount,rw /
	mount -t tmpfs tmpfs $work
fi
cd $work || exit 1

# warm COMMAND...: not measured. The row "cold" empties the guest's cache, and a host may take its own
# back at any time: then the rest would measure disks.
warm() {
	"$@" >/dev/null 2>&1 </dev/null || echo "FAILED, before it was measured: $*"
}

# row COMMAND...: what it prints goes nowhere, but for a failure.
row() {
	echo BEGIN
	"$@" >$work/out 2>&1 </dev/null || echo "FAILED $*: $(tail -n 3 $work/out)"
	echo END
}

# The same, of a program that says BEGIN and END itself, to descriptor 3: without its own start.
row_itself() {
	"$@" 3>&1 >$work/out 2>&1 </dev/null || echo "FAILED $*: $(tail -n 3 $work/out)"
}

# A file of zeros: what is in it makes no difference to the rows.
input() {
	[ -e $work/input ] || head -c 100000000 /dev/zero >$work/input
}

count() {
	i=0
	while [ $i -lt 300000 ]; do
		i=$((i + 1))
	done
}

# No system call, no memory but what the cache holds: nothing that is not the processor's own.
hash_in_memory() {
	python3 -c 'import hashlib, os
block = bytes(1 << 20)
hashlib.sha256(block).digest()
os.write(3, b"BEGIN\n")
for i in range(500):
    hashlib.sha256(block).digest()
os.write(3, b"END\n")'
}

python_starts() {
	for i in 1 2 3 4 5; do
		python3 -c 'import json, re, subprocess' || return
	done
}

true_many() {
	i=0
	while [ $i -lt 200 ]; do
		/bin/true
		i=$((i + 1))
	done
}

sqlite_rows() {
	rm -f rows.db
	python3 - <<'PYTHON'
import sqlite3
db = sqlite3.connect("rows.db")
db.execute("create table t (id integer primary key, name text, n integer)")
with db:
    db.executemany("insert into t (name, n) values (?, ?)", ((f"row {i}", i * i) for i in range(50000)))
for i in range(200):
    with db:
        db.execute("insert into t (name, n) values ('single', ?)", (i,))
print(db.execute("select count(*), sum(n) from t").fetchone())
PYTHON
}

compile_one() {
	gcc -O2 -c -I/bench/src -o one.o /bench/src/lapic.c && rm one.o
}

compile_all() {
	gcc -O2 -c -I/bench/src /bench/src/*.c && gcc -r -o all.o ./*.o && rm ./*.o
}

walk() {
	find /usr /etc /var -xdev -type f -size +1k | wc -l
	tar -cf - /usr/lib/python3* /usr/share | cat | wc -c
}

write_disk() {
	dd if=/dev/zero of=/bench/big bs=1M count=256 conv=fsync
}

written() {
	[ -e /bench/big ] || write_disk 2>/dev/null
}

read_disk() {
	echo 3 >/proc/sys/vm/drop_caches
	dd if=/bench/big of=/dev/null bs=1M
}

read_cached() {
	dd if=/bench/big of=/dev/null bs=1M && dd if=/bench/big of=/dev/null bs=1M
}

echo READY
while read -r name; do
	case $name in
	loop) row count ;;
	sha256) input && warm openssl version && row openssl dgst -sha256 $work/input ;;
	hash) row_itself hash_in_memory ;;
	aes) input && warm openssl version && row openssl enc -aes-256-ctr -K 0 -iv 0 -in $work/input -out /dev/null ;;
	gcc) warm compile_one && row compile_all ;;
	python) warm python_starts && row python_starts ;;
	sqlite) warm python3 -c 'import sqlite3' && row sqlite_rows ;;
	true) row true_many ;;
	walk) warm walk && row walk ;;
	write) row write_disk ;;
	cold) written && row read_disk ;;
	cached) written && row read_cached ;;
	end) break ;;
	*) echo "FAILED no row '$name'" ;;
	esac
done
if [ "$1" != host ]; then
	sync
	mount -o remount,ro /
	echo o >/proc/sysrq-trigger
	sleep 60
fi
