/* The console device: ports announced, bytes in both directions, readers that are slow or absent.
 */
#include <criterion/criterion.h>

#include "virtio_console.h"
#include "virtio_rig.h"

#define CTL_IN  0x28000u /* buffers of the control queue */
#define PORT_TX 1u       /* of port 0 */

static struct virtio_rig rig;
static struct virtio_console con;
static struct virtio_console_port hvc, port;
static struct timerq timers;
static u64 now;

/* A character device that records and takes as much as it is told to. */
static struct sink {
	struct chardev chr;
	u8 got[8192];
	size_t len, takes;
	unsigned rooms;
} sink, sink1;

static u64 clock_now(void *opaque)
{
	(void)opaque;
	return now;
}

static void sink_write(struct chardev *c, const u8 *buf, size_t len)
{
	struct sink *s = container_of(c, struct sink, chr);

	for (size_t i = 0; i < len && s->len < sizeof(s->got); i++)
		s->got[s->len++] = buf[i];
	s->takes -= MIN(s->takes, len);
}

static size_t sink_can_write(struct chardev *c)
{
	return container_of(c, struct sink, chr)->takes;
}

static void sink_room(struct chardev *c)
{
	container_of(c, struct sink, chr)->rooms++;
}

static void make_sink(struct sink *s)
{
	memset(s, 0, sizeof(*s));
	s->takes = SIZE_MAX;
	s->chr.write = sink_write;
	s->chr.can_write = sink_can_write;
	s->chr.room = sink_room;
}

static void setup(void)
{
	virtio_rig_init(&rig);
	timerq_init(&timers, clock_now, NULL, NULL);
	virtio_console_init(&con, &rig.dma, &timers, &rig.stats, 3);
	virtio_rig_connect(&rig, &con.dev);
	make_sink(&sink);
	make_sink(&sink1);
	hvc = (struct virtio_console_port){.con = &con, .console = true, .chr = &sink.chr};
	port =
	    (struct virtio_console_port){.con = &con, .nr = 2, .name = "a.name", .chr = &sink1.chr};
	virtio_console_add(&hvc);
	virtio_console_add(&port);
}

TestSuite(virtio_console, .init = setup);

/* A queue whose rings are not in queue 0's place but in slot n of three. */
static struct vring make_queue(unsigned q, unsigned slot)
{
	struct vring r = {.rig = &rig, .q = slot, .size = 8};
	u32 at = slot * RIG_QUEUE;

	con.dev.queue[q].size = 8;
	con.dev.queue[q].desc = at + RIG_DESC;
	con.dev.queue[q].avail = at + RIG_AVAIL;
	con.dev.queue[q].used = at + RIG_USED;
	virtio_enable_queue(&con.dev, q);
	return r;
}

static void send(struct vring *r, unsigned q, const void *bytes, u32 len)
{
	memcpy(rig.ram + RIG_BUFFER, bytes, len);
	vring_desc(r, 0, RIG_BUFFER, len, 0, 0);
	vring_add(r, 0);
	virtio_notify(&con.dev, q);
}

Test(virtio_console, one_port)
{
	struct vring rx, tx;
	u32 id;

	virtio_rig_start(&con.dev, VIRTIO_CONSOLE_F_MULTIPORT);
	rx = make_queue(0, 0);
	tx = make_queue(1, 1);
	virtio_rig_ok(&con.dev);
	send(&tx, PORT_TX, "hello", 5);
	cr_expect_eq(vring_take(&tx, &id), 0);
	cr_expect_eq(memcmp(sink.got, "hello", 6), 0);
	cr_expect_eq(sink.chr.can_receive(&hvc), 0);
	vring_desc(&rx, 0, RIG_BUFFER + 0x100, 0, RIG_WRITE, 0); /* room for nothing */
	vring_add(&rx, 0);
	vring_desc(&rx, 1, RIG_BUFFER + 0x200, 4, RIG_WRITE | RIG_NEXT, 2);
	vring_desc(&rx, 2, RIG_BUFFER + 0x300, 6, RIG_WRITE, 0);
	vring_add(&rx, 1);
	virtio_notify(&con.dev, 0);
	cr_expect_eq(sink.rooms, 1);
	cr_expect_eq(sink.chr.can_receive(&hvc), 10);
	cr_expect_eq(vring_take(&rx, &id), 0);
	cr_expect_eq(sink.chr.can_receive(&hvc), 10);
	sink.chr.receive(&hvc, (const u8 *)"abcdefg", 7);
	cr_expect_eq(vring_take(&rx, &id), 7);
	cr_expect_eq(id, 1);
	cr_expect_eq(memcmp(rig.ram + RIG_BUFFER + 0x200, "abcd", 5), 0);
	cr_expect_eq(memcmp(rig.ram + RIG_BUFFER + 0x300, "efg", 4), 0);
	cr_expect_eq(sink.chr.can_receive(&hvc), 0);
}

Test(virtio_console, slow_reader)
{
	struct vring tx;
	u32 id;

	virtio_rig_start(&con.dev, VIRTIO_CONSOLE_F_MULTIPORT);
	tx = make_queue(1, 1);
	virtio_rig_ok(&con.dev);
	sink.takes = 3;
	send(&tx, PORT_TX, "abcdef", 6);
	cr_expect_eq(vring_take(&tx, &id), -1);
	cr_expect_eq(sink.len, 3);
	sink.takes = 100;
	sink.chr.writable(&hvc);
	cr_expect_eq(vring_take(&tx, &id), 0);
	cr_expect_eq(memcmp(sink.got, "abcdef", 7), 0);
	sink.takes = 0;
	send(&tx, PORT_TX, "gone", 4);
	virtio_set_status(&con.dev, 0);
	sink.takes = 100;
	sink.chr.writable(&hvc);
	cr_expect_eq(sink.len, 6, "reset forgets");
}

/* A chain as long as RAM is not written in one go. */
Test(virtio_console, long_chain)
{
	struct vring tx;
	u32 id;
	unsigned goes = 0;

	virtio_rig_start(&con.dev, VIRTIO_CONSOLE_F_MULTIPORT);
	tx = make_queue(1, 1);
	virtio_rig_ok(&con.dev);
	for (unsigned i = 0; i < 8; i++)
		vring_desc(&tx, i, 0, RIG_RAM, i < 7 ? RIG_NEXT : 0, (u16)(i + 1));
	vring_add(&tx, 0);
	virtio_notify(&con.dev, PORT_TX);
	while (vring_take(&tx, &id) < 0) {
		cr_assert_lt(goes++, 100);
		now += NS_PER_SEC;
		timerq_run(&timers);
	}
	cr_expect_geq(goes, 7);
}

static struct vring ctl_rx, ctl_tx;

static void start_multiport(void)
{
	virtio_rig_start(&con.dev, 0);
	ctl_rx = make_queue(2, 0);
	ctl_tx = make_queue(3, 1);
	virtio_rig_ok(&con.dev);
}

/* Give a buffer for a message, and look what comes. */
static void expect_message(u32 id, u16 ev, u16 value, const char *text)
{
	u32 head, len = text ? 8 + (u32)strlen(text) : 8;
	struct {
		u32 id;
		u16 event, value;
	} c;

	vring_desc(&ctl_rx, 0, CTL_IN, 64, RIG_WRITE, 0);
	vring_add(&ctl_rx, 0);
	virtio_notify(&con.dev, 2);
	cr_assert_eq(vring_take(&ctl_rx, &head), len, "event %u of port %u", ev, id);
	memcpy(&c, rig.ram + CTL_IN, sizeof(c));
	cr_expect(c.id == id && c.event == ev && c.value == value, "got %u %u %u, not %u %u %u",
		  c.id, c.event, c.value, id, ev, value);
	if (text)
		cr_expect_eq(memcmp(rig.ram + CTL_IN + 8, text, strlen(text)), 0);
}

static void say(u32 id, u16 ev, u16 value)
{
	struct {
		u32 id;
		u16 event, value;
	} c = {id, ev, value};

	send(&ctl_tx, 3, &c, sizeof(c));
}

Test(virtio_console, ports_are_announced)
{
	u32 id;

	start_multiport();
	sink1.chr.event(&port, CHARDEV_OPENED);
	say(0, 0, 1);
	cr_expect_eq(vring_take(&ctl_rx, &id), -1, "no buffer");
	expect_message(0, 1, 1, NULL);
	expect_message(2, 1, 1, NULL);
	expect_message(2, 6, 1, NULL);
	say(0, 3, 1);
	expect_message(0, 4, 1, NULL);
	expect_message(0, 6, 1, NULL);
	say(2, 3, 1);
	expect_message(2, 7, 1, "a.name");
	expect_message(2, 6, 1, NULL);
	for (unsigned i = 0; i < 1001; i++)
		sink1.chr.event(&port, i % 2 ? CHARDEV_OPENED : CHARDEV_CLOSED);
	expect_message(2, 6, 0, NULL);
	vring_desc(&ctl_rx, 0, CTL_IN, 64, RIG_WRITE, 0);
	vring_add(&ctl_rx, 0);
	virtio_notify(&con.dev, 2);
	cr_expect_eq(vring_take(&ctl_rx, &id), -1, "nothing more to say");
}

Test(virtio_console, guest_opens)
{
	struct vring rx;

	start_multiport();
	rx = make_queue(6, 2); /* port 2's */
	vring_desc(&rx, 0, RIG_BUFFER + 0x100, 16, RIG_WRITE, 0);
	vring_add(&rx, 0);
	virtio_notify(&con.dev, 6);
	cr_expect_eq(sink1.chr.can_receive(&port), 0, "nobody listens");
	say(2, 6, 1);
	cr_expect_geq(sink1.rooms, 2);
	cr_expect_eq(sink1.chr.can_receive(&port), 16);
	say(2, 6, 0);
	cr_expect_eq(sink1.chr.can_receive(&port), 0);
}

Test(virtio_console, control_nonsense)
{
	start_multiport();
	for (u32 id = 0; id < 6; id++)
		for (u16 ev = 0; ev < 20; ev++)
			say(id, ev, (u16)(id ^ ev));
	say(~0u, 0xffff, 0xffff);
	send(&ctl_tx, 3, "abc", 3);
	cr_expect(!con.dev.broken);
}

Test(virtio_console, emergency)
{
	virtio_config_write(&con.dev, 8, 4, 'X');
	virtio_config_write(&con.dev, 8, 1, 'Y');
	virtio_config_write(&con.dev, 4, 4, 'Z');
	cr_expect_eq(memcmp(sink.got, "XY", 3), 0);
	cr_expect_eq(virtio_config_read(&con.dev, 4, 4), 3, "ports");
	cr_expect_eq(virtio_config_read(&con.dev, 0, 4), 0);
}
