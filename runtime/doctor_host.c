/*
 * What the host's files and limits say about running guests.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bt_run.h"
#include "doctor.h"

#define NO_LIMIT (~0ull)

/* The first line of a file; false if there is none. */
static bool read_line(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(buf, (int)size, f);

	if (f)
		fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = 0;
	return ok;
}

static u64 read_number(const char *path, u64 otherwise)
{
	char line[64], *end;
	u64 n;

	if (!read_line(path, line, sizeof(line)))
		return otherwise;
	n = strtoull(line, &end, 10);
	return end == line ? otherwise : n;
}

/* The value of "key:  value" in a file. */
static bool read_key(const char *path, const char *key, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");
	size_t len = strlen(key);
	char line[8192];
	bool found = false;

	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, len) && line[len] == ':') {
			snprintf(buf, size, "%s", line + len + 1 + strspn(line + len + 1, " \t"));
			buf[strcspn(buf, "\n")] = 0;
			found = true;
		}
	fclose(f);
	return found;
}

/* --- control groups --- */

/* The lowest of a limit's values from our group up to the root, as far as they can be seen. */
static u64 cgroup_limit(const char *file)
{
	char group[256] = "", path[512], line[300];
	u64 lowest = NO_LIMIT;
	FILE *f = fopen("/proc/self/cgroup", "re");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, "0::", 3))
			snprintf(group, sizeof(group), "%.*s", (int)strcspn(line + 3, "\n"),
				 line + 3);
	if (f)
		fclose(f);
	for (;;) {
		char *slash;

		snprintf(path, sizeof(path), "/sys/fs/cgroup%s/%s", group, file);
		lowest = MIN(lowest, read_number(path, NO_LIMIT)); /* "max" is no number */
		slash = strrchr(group, '/');
		if (!slash)
			return lowest;
		*slash = 0;
	}
}

/* --- checks --- */

static void check_kernel(struct doctor *d)
{
	struct utsname u;

	if (uname(&u))
		doctor_say(d, "kernel", DOCTOR_INFO, NULL, "unknown: %s", strerror(errno));
	else
		doctor_say(d, "kernel", DOCTOR_INFO, NULL, "%.40s %.60s", u.sysname, u.release);
}

static void check_container(struct doctor *d)
{
	char kind[64] = "", filter[16] = "0";

	if (access("/.dockerenv", F_OK) == 0)
		strcpy(kind, "docker");
	else if (access("/run/.containerenv", F_OK) == 0)
		strcpy(kind, "podman");
	else if (!read_line("/run/systemd/container", kind, sizeof(kind)))
		strcpy(kind, "none seen");
	read_key("/proc/self/status", "Seccomp", filter, sizeof(filter));
	doctor_say(d, "container", DOCTOR_INFO, NULL, "%s; user %u; system calls are %s", kind,
		   (unsigned)getuid(), strcmp(filter, "0") ? "filtered" : "not filtered");
}

static void check_fsgsbase(struct doctor *d)
{
	if (bt_host_can())
		doctor_say(d, "fsgsbase", DOCTOR_OK, NULL, "programs may write FS and GS bases");
	else
		doctor_say(d, "fsgsbase", DOCTOR_STEP,
			   "needs Linux 5.9 or newer, a processor since 2012 (Intel) or 2015 (AMD) "
			   "and no nofsgsbase",
			   "programs may not write FS and GS bases: no translator");
}

static void check_cpus(struct doctor *d)
{
	cpu_set_t set;
	unsigned n = 1;
	u64 quota = cgroup_limit("cpu.max");

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		n = CPU_COUNT(&set);
	if (quota != NO_LIMIT && quota < 200000) /* of the usual period of 100 ms */
		doctor_say(d, "cpus", DOCTOR_NOTE,
			   "give it two processors' worth of time (cpu.max, docker --cpus)",
			   "%u, but only %llu %% of one processor's time", n,
			   (unsigned long long)quota / 1000);
	else if (n < 2)
		doctor_say(d, "cpus", DOCTOR_NOTE, "give it two",
			   "one: system calls of guest programs take some microseconds longer");
	else
		doctor_say(d, "cpus", DOCTOR_OK, NULL, "%u", n);
}

/* What -m can be, by what is free and what limits allow. */
static void check_memory(struct doctor *d)
{
	char text[64] = "0";
	struct rlimit as;
	u64 most, group = cgroup_limit("memory.max");

	read_key("/proc/meminfo", "MemAvailable", text, sizeof(text));
	most = strtoull(text, NULL, 10) * KIB;
	most = MIN(most, group);
	if (getrlimit(RLIMIT_AS, &as) == 0 && as.rlim_cur != RLIM_INFINITY)
		most = MIN(most, as.rlim_cur);
	if (most < 256 * MIB)
		doctor_say(d, "memory", DOCTOR_NOTE, "a small Linux wants 256 MiB and more",
			   "%llu MiB available", (unsigned long long)(most / MIB));
	else
		doctor_say(d, "memory", DOCTOR_OK, NULL, "%llu MiB available%s",
			   (unsigned long long)(most / MIB),
			   group == most ? " (the control group's limit)" : "");
}

static void check_memfd(struct doctor *d)
{
	int fd = memfd_create("doctor", MFD_CLOEXEC);
	void *p = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, PAGE_SIZE) == 0)
		p = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		doctor_say(d, "memfd", DOCTOR_FAIL,
			   "memfd_create and executable shared mappings are needed", "%s",
			   strerror(errno));
	else
		doctor_say(d, "memfd", DOCTOR_OK, NULL, "guest RAM can be mapped to execute");
	if (p != MAP_FAILED)
		munmap(p, PAGE_SIZE);
	if (fd >= 0)
		close(fd);
}

#define USUAL_MAP_COUNT 65530
#define GOOD_MAP_COUNT  262144

static void check_map_count(struct doctor *d)
{
	u64 n = read_number("/proc/sys/vm/max_map_count", USUAL_MAP_COUNT);

	doctor_say(d, "max_map_count",
		   n < USUAL_MAP_COUNT  ? DOCTOR_NOTE
		   : n < GOOD_MAP_COUNT ? DOCTOR_INFO
					: DOCTOR_OK,
		   n < GOOD_MAP_COUNT
		       ? "sysctl vm.max_map_count=262144 helps guests with much scattered memory"
		       : NULL,
		   "%llu mappings per process", (unsigned long long)n);
}

#define STUB_LOWEST 0x10000u

static void check_min_addr(struct doctor *d)
{
	u64 n = read_number("/proc/sys/vm/mmap_min_addr", 0);

	if (n > STUB_LOWEST)
		doctor_say(d, "mmap_min_addr", DOCTOR_NOTE, "sysctl vm.mmap_min_addr=65536",
			   "%llu: programs linked lower are stepped", (unsigned long long)n);
	else
		doctor_say(d, "mmap_min_addr", DOCTOR_OK, NULL, "%llu", (unsigned long long)n);
}

static void check_limit(struct doctor *d, const char *id, int resource, rlim_t least,
			const char *advice)
{
	struct rlimit r;

	if (getrlimit(resource, &r))
		return;
	if (r.rlim_cur == RLIM_INFINITY)
		doctor_say(d, id, DOCTOR_OK, NULL, "unlimited");
	else
		doctor_say(d, id, r.rlim_cur < least ? DOCTOR_NOTE : DOCTOR_OK,
			   r.rlim_cur < least ? advice : NULL, "%llu",
			   (unsigned long long)r.rlim_cur);
}

static void check_clock(struct doctor *d)
{
	char source[64] = "unknown", flags[4096] = "";

	read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", source,
		  sizeof(source));
	read_key("/proc/cpuinfo", "flags\t\t", flags, sizeof(flags));
	if (!strstr(flags, "constant_tsc"))
		doctor_say(d, "clock", DOCTOR_NOTE, "have the guest ask an NTP server",
			   "%.30s; the TSC may change its speed, and the guest's clock with it",
			   source);
	else
		doctor_say(d, "clock", DOCTOR_OK, NULL, "%.30s; the TSC runs at constant speed",
			   source);
}

void doctor_check_host(struct doctor *d)
{
	check_kernel(d);
	check_container(d);
	check_fsgsbase(d);
	check_cpus(d);
	check_memory(d);
	check_memfd(d);
	check_map_count(d);
	check_min_addr(d);
	check_limit(d, "open_files", RLIMIT_NOFILE, 256, "ulimit -n 1024");
	check_limit(d, "processes", RLIMIT_NPROC, 256,
		    "each program of the guest that is alive has a process here: ulimit -u 4096");
	check_clock(d);
}
