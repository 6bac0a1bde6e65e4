/*
 * The doctor's report: findings in, text or JSON and a status out.
 */
#include <stdarg.h>
#include <string.h>

#include "doctor.h"
#include "exit_status.h"

void doctor_say(struct doctor *d, const char *id, enum doctor_level level, const char *advice,
		const char *fmt, ...)
{
	struct finding *f = &d->finding[d->count];
	va_list ap;

	BUG_ON(d->count == DOCTOR_MAX);
	d->count++;
	f->id = id;
	f->level = level;
	f->advice = advice;
	va_start(ap, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, ap);
	va_end(ap);
}

enum doctor_status doctor_verdict(const struct doctor *d)
{
	static const enum doctor_status of[] = {[DOCTOR_OK] = DOCTOR_FINE,
						[DOCTOR_INFO] = DOCTOR_FINE,
						[DOCTOR_NOTE] = DOCTOR_SLOW,
						[DOCTOR_STEP] = DOCTOR_STEPPED,
						[DOCTOR_FAIL] = DOCTOR_BROKEN};
	enum doctor_status worst = DOCTOR_FINE;

	for (unsigned i = 0; i < d->count; i++)
		worst = MAX(worst, of[d->finding[i].level]);
	return worst;
}

static const char *verdict_text(enum doctor_status verdict)
{
	switch (verdict) {
	case DOCTOR_FINE: return "guests run at full speed";
	case DOCTOR_SLOW: return "guests run; the notes say what makes them slower or smaller";
	case DOCTOR_STEPPED: return "guests run, but slowly: see what is marked 'slow'";
	case DOCTOR_BROKEN: break;
	}
	return "guests do not run: see what is marked 'FAIL'";
}

void doctor_print(const struct doctor *d, FILE *out)
{
	static const char *const mark[] = {[DOCTOR_OK] = "ok",
					   [DOCTOR_INFO] = "-",
					   [DOCTOR_NOTE] = "note",
					   [DOCTOR_STEP] = "slow",
					   [DOCTOR_FAIL] = "FAIL"};

	for (unsigned i = 0; i < d->count; i++) {
		const struct finding *f = &d->finding[i];

		fprintf(out, "%-4s  %-14s %s\n", mark[f->level], f->id, f->text);
		if (f->advice)
			fprintf(out, "%-20s -> %s\n", "", f->advice);
	}
	fprintf(out, "\n%s\n", verdict_text(doctor_verdict(d)));
}

/* Everything we print is ASCII but what files of the host say. */
static void print_string(const char *s, FILE *out)
{
	fputc('"', out);
	for (; *s; s++) {
		unsigned char c = *s;

		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			fprintf(out, "\\u%04x", c);
		else
			fputc(c, out);
	}
	fputc('"', out);
}

void doctor_print_json(const struct doctor *d, FILE *out)
{
	static const char *const name[] = {[DOCTOR_OK] = "ok",
					   [DOCTOR_INFO] = "info",
					   [DOCTOR_NOTE] = "note",
					   [DOCTOR_STEP] = "slow",
					   [DOCTOR_FAIL] = "fail"};

	fprintf(out, "{\"status\": %d, \"verdict\": ", doctor_verdict(d));
	print_string(verdict_text(doctor_verdict(d)), out);
	fprintf(out, ", \"findings\": [");
	for (unsigned i = 0; i < d->count; i++) {
		const struct finding *f = &d->finding[i];

		fprintf(out, "%s\n  {\"id\": \"%s\", \"level\": \"%s\", \"text\": ", i ? "," : "",
			f->id, name[f->level]);
		print_string(f->text, out);
		if (f->advice) {
			fprintf(out, ", \"advice\": ");
			print_string(f->advice, out);
		}
		fputc('}', out);
	}
	fprintf(out, "\n]}\n");
}

int doctor_main(int argc, char *const *argv, const char *lowland_err)
{
	static struct doctor d;
	bool json = argc > 1 && !strcmp(argv[1], "--json");

	if (argc > 1 + json) {
		fprintf(stderr, "ringshift: doctor: '%s': all it takes is --json\n",
			argv[1 + json]);
		return STATUS_USAGE;
	}
	if (lowland_err)
		doctor_say(&d, "layout", DOCTOR_FAIL, NULL, "%s", lowland_err);
	else
		doctor_say(&d, "layout", DOCTOR_OK, NULL,
			   "the address space is free where guest kernels lie");
	doctor_check_host(&d);
	doctor_try_spaces(&d);
	doctor_try_net(&d);
	doctor_try_kvm(&d);
	if (json)
		doctor_print_json(&d, stdout);
	else
		doctor_print(&d, stdout);
	return doctor_verdict(&d);
}
