/*
 * Monitors: between their character devices and the commands.
 *
 * All runs on the vCPU thread, from aio_run: a command sees the VM between two instructions and
 * needs no locks. What is said is kept here until the character device takes it, and while much of
 * it waits no more commands are taken: a client that does not read gets no more answers, and nobody
 * else waits for it. Events, which nobody asks for, are dropped beyond a limit (monitor_dropped).
 */
#include <errno.h>
#include <string.h>

#include "monitor_impl.h"
#include "hmp.h"

#define OUT_ENOUGH 0x10000u  /* no more commands while that much waits */
#define OUT_MAX    0x100000u /* nor events */
#define TAKE_MAX   4096u

static const char prompt[] = "(ringshift) ";

/* ---- output ---- */

static void push(struct monitor *m)
{
	size_t done = 0, n;

	while (done < m->out_len) {
		n = MIN(chardev_can_write(m->chr), m->out_len - done);
		if (!n)
			break;
		chardev_write(m->chr, (const u8 *)m->out + done, n);
		done += n;
	}
	m->out_len -= done;
	if (done && m->out_len)
		memmove(m->out, m->out + done, m->out_len);
}

void monitor_put(struct monitor *m, const char *text, size_t len)
{
	if (!m->open)
		return;
	if (m->out_size - m->out_len < len) {
		size_t size = ALIGN_UP(m->out_len + len, 4096) * 2;
		char *out = realloc(m->out, size);

		if (!out) {
			m->vm->stats.n[STAT_monitor_dropped]++;
			return;
		}
		m->out = out;
		m->out_size = size;
	}
	memcpy(m->out + m->out_len, text, len);
	m->out_len += len;
	push(m);
}

static void on_writable(void *dev)
{
	struct monitor *m = dev;
	bool was_full = m->out_len > OUT_ENOUGH;

	push(m);
	if (was_full && m->out_len <= OUT_ENOUGH && m->chr->room)
		m->chr->room(m->chr);
}

/* ---- readline ---- */

static void put_line_text(void *opaque, const char *text, size_t len)
{
	monitor_put(opaque, text, len);
}

/* A terminal wants CR before LF. */
static void put_text(struct monitor *m, const char *text, size_t len)
{
	while (len) {
		const char *end = memchr(text, '\n', len);
		size_t n = end ? (size_t)(end - text) : len;

		monitor_put(m, text, n);
		if (!end)
			break;
		monitor_put(m, "\r\n", 2);
		text += n + 1;
		len -= n + 1;
	}
}

static void put_prompt(struct monitor *m)
{
	monitor_put(m, prompt, sizeof(prompt) - 1);
}

static void run_line(void *opaque, const char *line)
{
	struct monitor *m = opaque;
	size_t len;
	char *text = hmp_execute(m->vm, line, &len);

	if (text)
		put_text(m, text, len);
	free(text);
	put_prompt(m);
}

static void greet_human(struct monitor *m)
{
	static const char hello[] = "ringshift monitor - type 'help' for more information\r\n";

	if (!m->greeted)
		monitor_put(m, hello, sizeof(hello) - 1);
	m->greeted = true;
	line_edit_reset(&m->line);
	put_prompt(m);
}

/* ---- what the character device calls ---- */

static size_t on_can_receive(void *dev)
{
	struct monitor *m = dev;

	return m->out_len > OUT_ENOUGH ? 0 : TAKE_MAX;
}

static void on_receive(void *dev, const u8 *buf, size_t len)
{
	struct monitor *m = dev;

	if (!m->open)
		return; /* the rest of what a client has sent that has gone */
	if (m->spec->control)
		qmp_receive(m, buf, len);
	else
		line_edit_receive(&m->line, buf, len);
}

static void on_event(void *dev, enum chardev_event event)
{
	struct monitor *m = dev;

	switch (event) {
	case CHARDEV_OPENED:
		m->open = true;
		m->greeted = false;
		m->out_len = 0;
		if (m->spec->control)
			qmp_greet(m);
		break;
	case CHARDEV_CLOSED:
		m->open = false;
		m->out_len = 0;
		break;
	case CHARDEV_FOCUS:
		if (m->open && !m->spec->control)
			greet_human(m);
		break;
	case CHARDEV_BREAK: break;
	}
}

/* ---- all of them ---- */

static struct monitor *create(struct vm *vm, const struct mon_spec *spec, char *err, size_t errlen)
{
	struct monitor *m = calloc(1, sizeof(*m));

	if (!m) {
		snprintf(err, errlen, "out of memory");
		return NULL;
	}
	m->vm = vm;
	m->spec = spec;
	m->chr = chardevs_attach(vm->chardevs, spec->chardev, true, err, errlen);
	if (!m->chr) {
		free(m);
		return NULL;
	}
	m->chr->dev = m;
	m->chr->live = true;
	m->chr->can_receive = on_can_receive;
	m->chr->receive = on_receive;
	m->chr->writable = on_writable;
	m->chr->event = on_event;
	line_edit_init(&m->line, put_line_text, run_line, hmp_complete, m);
	return m;
}

int monitors_create(struct monitors **out, struct vm *vm, char *err, size_t errlen)
{
	struct monitors *ms = calloc(1, sizeof(*ms));
	struct monitor **end;

	if (!ms) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	*out = ms;
	end = &ms->first;
	for (unsigned i = 0; i < vm->cfg->mon_count; i++) {
		struct monitor *m = create(vm, &vm->cfg->mon[i], err, errlen);

		if (!m)
			return -EINVAL;
		*end = m;
		end = &m->next;
	}
	return 0;
}

void monitors_destroy(struct monitors *ms)
{
	if (!ms)
		return;
	while (ms->first) {
		struct monitor *m = ms->first;

		ms->first = m->next;
		json_stream_free(&m->json);
		free(m->out);
		free(m);
	}
	free(ms);
}

void monitors_flush(struct monitors *ms)
{
	for (struct monitor *m = ms ? ms->first : NULL; m; m = m->next)
		push(m);
}

static void event(struct monitors *ms, const char *name, bool has_reason, bool guest,
		  const char *reason)
{
	for (struct monitor *m = ms ? ms->first : NULL; m; m = m->next) {
		if (!m->open || !m->negotiated)
			continue;
		if (m->out_len > OUT_MAX)
			m->vm->stats.n[STAT_monitor_dropped]++;
		else
			qmp_event(m, name, has_reason, guest, reason);
	}
}

void monitors_event(struct monitors *ms, const char *name)
{
	event(ms, name, false, false, NULL);
}

void monitors_event_reason(struct monitors *ms, const char *name, bool guest, const char *reason)
{
	event(ms, name, true, guest, reason);
}
