/*
 * QMP: the protocol. One JSON object asks, one answers, with the asker's id if it gave one; first
 * of all the client has to say qmp_capabilities, until then there are no events. No capability is
 * offered (out-of-band execution would be of no use: no command takes long).
 */
#include <stdarg.h>
#include <string.h>
#include <sys/time.h>

#include "monitor_impl.h"
#include "qmp.h"

json_t *qmp_fail(struct qmp_call *call, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(call->error, sizeof(call->error), fmt, ap);
	va_end(ap);
	return NULL;
}

/* Takes the object over. */
static void say(struct monitor *m, json_t *what)
{
	size_t flags = JSON_ENSURE_ASCII | (m->spec->pretty ? JSON_INDENT(4) : 0);
	char *text = what ? json_dumps(what, flags) : NULL;

	if (text) {
		monitor_put(m, text, strlen(text));
		monitor_put(m, "\r\n", 2);
	} else {
		m->vm->stats.n[STAT_monitor_dropped]++;
	}
	free(text);
	json_decref(what);
}

void qmp_greet(struct monitor *m)
{
	m->negotiated = false;
	json_stream_reset(&m->json);
	say(m, json_pack("{s:{s:o, s:[]}}", "QMP", "version", qmp_version(), "capabilities"));
}

void qmp_event(struct monitor *m, const char *name, bool has_reason, bool guest, const char *reason)
{
	struct timeval now;
	json_t *e;

	gettimeofday(&now, NULL);
	e = json_pack("{s:{s:I, s:I}, s:s}", "timestamp", "seconds", (json_int_t)now.tv_sec,
		      "microseconds", (json_int_t)now.tv_usec, "event", name);
	if (e && has_reason)
		json_object_set_new(e, "data",
				    json_pack("{s:b, s:s}", "guest", guest, "reason", reason));
	say(m, e);
}

/* ---- arguments ---- */

bool qmp_next_arg(const char **list, struct qmp_arg *arg)
{
	const char *p = *list + strspn(*list, " ");
	size_t n = strcspn(p, ":");

	if (!*p)
		return false;
	BUG_ON(n >= sizeof(arg->name) || !p[n] || !p[n + 1]);
	memcpy(arg->name, p, n);
	arg->name[n] = 0;
	arg->type = p[n + 1];
	arg->optional = p[n + 2] == '?';
	*list = p + n + 2 + arg->optional;
	return true;
}

static const char *type_name(char type)
{
	switch (type) {
	case 's': return "string";
	case 'i': return "integer";
	case 'b': return "boolean";
	default: return "array";
	}
}

static bool has_type(const json_t *v, char type)
{
	switch (type) {
	case 's': return json_is_string(v);
	case 'i': return json_is_integer(v);
	case 'b': return json_is_boolean(v);
	default: return json_is_array(v);
	}
}

static bool knows(const char *list, const char *name)
{
	struct qmp_arg arg;

	while (qmp_next_arg(&list, &arg))
		if (!strcmp(arg.name, name))
			return true;
	return false;
}

static bool check_args(struct qmp_call *call, const struct qmp_command *c)
{
	const char *list = c->args, *name;
	struct qmp_arg arg;
	json_t *v;

	while (qmp_next_arg(&list, &arg)) {
		v = json_object_get(call->args, arg.name);
		if (!v && !arg.optional)
			return qmp_fail(call, "Parameter '%s' is missing", arg.name);
		if (v && !has_type(v, arg.type))
			return qmp_fail(call, "Invalid parameter type for '%s', expected: %s",
					arg.name, type_name(arg.type));
	}
	json_object_foreach((json_t *)call->args, name, v)
	{
		if (!knows(c->args, name))
			return qmp_fail(call, "Parameter '%.100s' is unexpected", name);
	}
	return true;
}

/* ---- one command ---- */

static const struct qmp_command *find(const char *name)
{
	for (size_t i = 0; i < qmp_command_count; i++)
		if (!strcmp(qmp_commands[i].name, name))
			return &qmp_commands[i];
	return NULL;
}

static json_t *not_found(struct qmp_call *call, const char *fmt, const char *name)
{
	call->error_class = "CommandNotFound";
	snprintf(call->error, sizeof(call->error), fmt, name);
	return NULL;
}

/* The object's members, but for execute's own arguments: the command's name, or NULL. */
static const char *check_request(struct qmp_call *call, const json_t *request)
{
	const char *name = NULL, *key;
	json_t *v;

	if (!json_is_object(request))
		return (void *)qmp_fail(call, "QMP input must be a JSON object");
	json_object_foreach((json_t *)request, key, v)
	{
		if (!strcmp(key, "execute")) {
			if (!json_is_string(v))
				return (void *)qmp_fail(
				    call, "QMP input member 'execute' must be a string");
			name = json_string_value(v);
		} else if (!strcmp(key, "arguments")) {
			if (!json_is_object(v))
				return (void *)qmp_fail(
				    call, "QMP input member 'arguments' must be an object");
			call->args = v;
		} else if (strcmp(key, "id")) {
			return (void *)qmp_fail(call, "QMP input member '%.100s' is unexpected",
						key);
		}
	}
	return name ? name : (void *)qmp_fail(call, "QMP input lacks member 'execute'");
}

static json_t *execute(struct monitor *m, struct qmp_call *call, const json_t *request)
{
	const char *name = check_request(call, request);
	const struct qmp_command *c = name ? find(name) : NULL;
	bool handshake = name && !strcmp(name, "qmp_capabilities");
	json_t *answer;

	if (!name)
		return NULL;
	if (!handshake && !m->negotiated)
		return not_found(call, "Expecting capabilities negotiation with '%s'",
				 "qmp_capabilities");
	if (handshake && m->negotiated)
		return not_found(call, "Capabilities negotiation is already complete, command %s",
				 "ignored");
	if (!c)
		return not_found(call, "The command %.100s has not been found", name);
	if (!check_args(call, c))
		return NULL;
	answer = c->run(call);
	m->negotiated |= handshake && answer;
	if (!answer && !call->error[0])
		qmp_fail(call, "out of memory");
	return answer;
}

/* What a command does may make events: they come after the answer, as the VM's state changes from
 * the loop, but for stop and cont, as in QEMU. */
static void answer_request(struct monitor *m, const json_t *request, const char *parse_error)
{
	json_t *none = json_object(), *result = NULL, *reply,
	       *id = json_is_object(request) ? json_object_get(request, "id") : NULL;
	struct qmp_call call = {.vm = m->vm, .args = none, .error_class = "GenericError"};

	if (parse_error)
		qmp_fail(&call, "JSON parse error, %.200s", parse_error);
	else if (none)
		result = execute(m, &call, request);
	if (result)
		reply = json_pack("{s:o}", "return", result);
	else
		reply = json_pack("{s:{s:s, s:s}}", "error", "class", call.error_class, "desc",
				  call.error);
	if (reply && id)
		json_object_set(reply, "id", id);
	say(m, reply);
	json_decref(none);
}

void qmp_receive(struct monitor *m, const u8 *buf, size_t len)
{
	for (size_t i = 0; i < len && m->open; i++) {
		enum json_event e = json_stream_byte(&m->json, buf[i]);
		json_error_t why;
		json_t *request;

		if (e == JSON_MORE)
			continue;
		if (e == JSON_BAD) {
			answer_request(m, NULL, "not a value, or too large a one");
			continue;
		}
		request = json_loadb(m->json.text, m->json.len, JSON_REJECT_DUPLICATES, &why);
		answer_request(m, request, request ? NULL : why.text);
		json_decref(request);
	}
}
