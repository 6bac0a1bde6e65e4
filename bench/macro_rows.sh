#!/bin/sh
# What people do on a machine, row by row: bench/macro.py puts this into a Debian as /bench/run, boots
# that with it as the first process, and takes the time between the lines BEGIN and END by its own
# clock. As an ordinary program (`run host`) it does the rows and ends.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
work=/bench/work

if [ "$1" != host ]; then
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	mount -o remount,rw /
	mount -t tmpfs tmpfs $work
fi
cd $work || exit 1

# row NAME COMMAND...: what it prints goes nowhere, but for a failure.
row() {
	name=$1
	shift
	echo "BEGIN $name"
	"$@" >$work/out 2>&1 || echo "FAILED $name: $(tail -n 3 $work/out)"
	echo "END $name"
}

count() {
	i=0
	while [ $i -lt 1000000 ]; do
		i=$((i + 1))
	done
}

python_starts() {
	for i in 1 2 3 4 5 6 7 8 9 10; do
		python3 -c 'import json, re, subprocess' || return
	done
}

true_many() {
	i=0
	while [ $i -lt 300 ]; do
		/bin/true
		i=$((i + 1))
	done
}

sqlite_rows() {
	python3 - <<'PYTHON'
import sqlite3
db = sqlite3.connect("rows.db")
db.execute("create table t (id integer primary key, name text, n integer)")
with db:
    db.executemany("insert into t (name, n) values (?, ?)", ((f"row {i}", i * i) for i in range(100000)))
for i in range(300):
    with db:
        db.execute("insert into t (name, n) values ('single', ?)", (i,))
print(db.execute("select count(*), sum(n) from t").fetchone())
PYTHON
}

compile_all() {
	for f in /bench/src/*.c; do
		gcc -O2 -c -I/bench/src -o $work/o.o "$f" || return
	done
}

walk() {
	find /usr /etc /var -xdev -type f -size +1k | wc -l
	tar -cf - /usr/lib/python3* /usr/share | cat | wc -c
}

write_disk() {
	dd if=/dev/zero of=/bench/big bs=1M count=256 conv=fsync
}

read_disk() {
	echo 3 >/proc/sys/vm/drop_caches
	dd if=/bench/big of=/dev/null bs=1M
}

read_cached() {
	dd if=/bench/big of=/dev/null bs=1M && dd if=/bench/big of=/dev/null bs=1M
}

echo READY
head -c 200000000 /dev/zero | openssl enc -aes-128-ctr -K 0 -iv 0 >$work/noise 2>/dev/null
row 'shell loop, 1 M' count
row 'sha256 of 200 MB' openssl dgst -sha256 $work/noise
row 'aes-256-ctr of 200 MB' openssl enc -aes-256-ctr -K 0 -iv 0 -in $work/noise -out /dev/null
row 'gcc -O2, a program of many files' compile_all
row 'python3, 10 starts' python_starts
row 'sqlite, 100,000 rows and 300 commits' sqlite_rows
row 'sh, 300 x /bin/true' true_many
row 'find and tar over /usr' walk
rm -f $work/noise
[ "$1" = host ] || row 'write 256 MiB to the disk, fsync' write_disk
[ "$1" = host ] || row 'read them, cold' read_disk
[ "$1" = host ] || row 'read them, twice, cached' read_cached
echo "ROWS END"
if [ "$1" != host ]; then
	sync
	mount -o remount,ro /
	echo o >/proc/sysrq-trigger
	sleep 60
fi
