/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Connection tracking. One entry serves both directions. A flow keeps its verdict until the
 * policy's revision moves; then policy is asked again.
 */
#ifndef SLUICE_CONNTRACK_H
#define SLUICE_CONNTRACK_H

#include "packet.h"

#define SECONDS 1000000000ULL

/* Idle times after which a flow is forgotten; those of nf_conntrack. */
#define TIMEOUT_TCP_OPENING (120 * SECONDS)
#define TIMEOUT_TCP_ESTABLISHED (432000 * SECONDS)
#define TIMEOUT_TCP_CLOSING (120 * SECONDS)
#define TIMEOUT_TCP_CLOSED (120 * SECONDS)
#define TIMEOUT_OPENING (30 * SECONDS)
#define TIMEOUT_ESTABLISHED (120 * SECONDS)

static __always_inline __u64 flow_timeout(const struct packet *packet, const struct flow *flow)
{
	if (packet->protocol != IPPROTO_TCP)
		return flow->state == FLOW_OPENING ? TIMEOUT_OPENING : TIMEOUT_ESTABLISHED;
	if (flow->state == FLOW_ESTABLISHED)
		return TIMEOUT_TCP_ESTABLISHED;
	if (flow->state == FLOW_CLOSING)
		return TIMEOUT_TCP_CLOSING;
	return flow->state == FLOW_CLOSED ? TIMEOUT_TCP_CLOSED : TIMEOUT_TCP_OPENING;
}

static __always_inline bool has_expired(const struct packet *packet, const struct flow *flow)
{
	return packet->now > flow->seen && packet->now - flow->seen > flow_timeout(packet, flow);
}

/* True when the packet's source is the key's low end. */
static __always_inline bool source_is_low(const struct packet *packet)
{
	for (int i = 0; i < 4; i++) {
		if (packet->source.word[i] != packet->destination.word[i])
			return packet->source.word[i] < packet->destination.word[i];
	}
	return packet->source_port <= packet->destination_port;
}

static __always_inline void make_key(struct packet *packet)
{
	bool low = source_is_low(packet);

	packet->key.low = low ? packet->source : packet->destination;
	packet->key.high = low ? packet->destination : packet->source;
	packet->key.low_port = low ? packet->source_port : packet->destination_port;
	packet->key.high_port = low ? packet->destination_port : packet->source_port;
	packet->key.protocol = packet->protocol;
	packet->key.pad = 0;
	packet->flow_flags = low ? FLOW_LOW_IS_ORIGINATOR : 0;
}

/* Finds the live flow of one leg; `way` says in which direction of it the packet goes. */
static __always_inline bool find_leg(struct packet *packet, __u8 leg)
{
	struct flow *flow;

	packet->key.leg = leg;
	flow = packet->is_question ? NULL : conntrack.lookup(&packet->key);
	if (flow && has_expired(packet, flow)) {
		conntrack.delete(&packet->key);
		flow = NULL;
	}
	packet->flow = flow;
	packet->way = flow && ((flow->flags ^ packet->flow_flags) & FLOW_LOW_IS_ORIGINATOR)
	                      ? FLOW_REPLY
	                      : FLOW_ORIGINATOR;
	return flow != NULL;
}

static __always_inline __u32 current_revision(void)
{
	__u32 zero = 0;
	struct settings *setting = settings.lookup(&zero);

	return setting ? setting->revision : 0;
}

static __always_inline bool is_current(const struct flow *flow)
{
	return flow->revision == current_revision();
}

static __always_inline bool has_lost_proxy(const struct flow *flow)
{
	struct proxy_key key = {.ifindex = flow->proxy};

	return flow->proxy && !proxies.lookup(&key);
}

/*
 * A SYN begins a connection of its own, which must not live on what was decided about an earlier
 * one with the same ends. While that one still opens it may be its SYN once more, or, from the
 * other end, a simultaneous open.
 */
static __always_inline bool begins_anew(const struct packet *packet, const struct flow *flow)
{
	if (!opens_tcp(packet))
		return false;
	if (flow->state != FLOW_OPENING)
		return true;
	return packet->way == FLOW_ORIGINATOR && (!is_current(flow) || has_lost_proxy(flow));
}

/*
 * The flow of a packet that comes from a workload, or from elsewhere to one. A proxy's upstream
 * leg is met here only by the server's replies: the client's own packets with the same ends
 * belong to its leg to the proxy.
 */
static __always_inline void find_flow(struct packet *packet)
{
	bool found;

	make_key(packet);
	found = find_leg(packet, LEG_DIRECT);
	if (found && (packet->flow->flags & FLOW_FROM_PROXY) && packet->way == FLOW_ORIGINATOR) {
		packet->is_occupied = packet->flow->state != FLOW_CLOSED;
		found = false;
	}
	if (!found)
		found = find_leg(packet, LEG_CLIENT) && packet->way == FLOW_ORIGINATOR;
	if (found && !begins_anew(packet, packet->flow))
		return;
	packet->is_replacing = found;
	packet->replaced_leg = packet->key.leg;
	packet->flow = NULL;
	packet->way = FLOW_ORIGINATOR;
	packet->key.leg = LEG_DIRECT;
}

/*
 * The flow of a packet that comes from a proxy: a reply to its client, or its own upstream leg.
 * The client's own connection with the same ends as a new upstream leg is in the way.
 */
static __always_inline int find_proxy_flow(struct packet *packet)
{
	__u32 proxy = packet->skb->ifindex;
	struct flow *flow;

	make_key(packet);
	if (find_leg(packet, LEG_CLIENT) && packet->way == FLOW_REPLY)
		return packet->flow->proxy == proxy && !opens_tcp(packet) ? DROP_NONE
		                                                          : DROP_PROXY_SOURCE;
	if (find_leg(packet, LEG_DIRECT)) {
		flow = packet->flow;
		if ((flow->flags & FLOW_FROM_PROXY) && flow->proxy == proxy &&
		    packet->way == FLOW_ORIGINATOR && !begins_anew(packet, flow))
			return DROP_NONE;
		if (!opens_tcp(packet) || (flow->state != FLOW_CLOSED && flow->proxy != proxy))
			return DROP_PROXY_COLLISION;
	}
	packet->flow = NULL;
	packet->way = FLOW_ORIGINATOR;
	packet->flow_flags |= FLOW_FROM_PROXY;
	return DROP_NONE;
}

static __always_inline void track_tcp(const struct packet *packet, struct flow *flow)
{
	__u8 flags = packet->tcp_flags;

	if (flags & TCP_RST) {
		flow->state = FLOW_CLOSED;
		return;
	}
	if (flags & TCP_FIN)
		flow->fin |= 1 << packet->way;
	if (flow->fin == 3)
		flow->state = FLOW_CLOSED;
	else if (flow->fin)
		flow->state = FLOW_CLOSING;
	else if (flow->state == FLOW_OPENING && (flow->flags & FLOW_REPLIED) &&
	         packet->way == FLOW_ORIGINATOR && (flags & TCP_ACK))
		flow->state = FLOW_ESTABLISHED;
}

static __always_inline void track(const struct packet *packet, struct flow *flow)
{
	flow->seen = packet->now;
	/* two CPUs may carry one flow at once */
	__sync_fetch_and_add(&flow->packets[packet->way & 1], 1);
	__sync_fetch_and_add(&flow->bytes[packet->way & 1], packet->skb->len);
	if (packet->way == FLOW_REPLY && !(flow->flags & FLOW_REPLIED))
		flow->flags |= FLOW_REPLIED;
	if (packet->protocol == IPPROTO_TCP)
		track_tcp(packet, flow);
	else if (packet->way == FLOW_REPLY)
		flow->state = FLOW_ESTABLISHED;
}

/* The flow whose ends are taken over: the same entry is overwritten, another leg's is removed. */
static __always_inline void end_replaced(struct packet *packet)
{
	__u8 leg = packet->key.leg;

	if (!packet->is_replacing || packet->replaced_leg == leg)
		return;
	packet->key.leg = packet->replaced_leg;
	conntrack.delete(&packet->key);
	packet->key.leg = leg;
}

static __always_inline int open_flow(struct packet *packet)
{
	struct flow flow = {
		.created = packet->now,
		.seen = packet->now,
		.packets = {1, 0},
		.bytes = {packet->skb->len, 0},
		.revision = current_revision(),
		.rule = packet->rule,
		.proxy = packet->proxy,
		.tenant = packet->proxy ? packet->tenant : 0,
		.verdict = packet->verdict,
		.flags = packet->flow_flags,
		.state = packet->tcp_flags & TCP_RST ? FLOW_CLOSED : FLOW_OPENING,
		.fin = packet->tcp_flags & TCP_FIN ? 1 << FLOW_ORIGINATOR : 0,
	};

	if (packet->is_occupied && packet->key.leg == LEG_DIRECT)
		return DROP_PROXY_COLLISION;
	if (packet->is_question)
		return DROP_NONE;
	end_replaced(packet);
	packet->is_new = 1;
	if (conntrack.update(&packet->key, &flow)) {
		count_stat(STAT_CONNTRACK_FULL);
		return DROP_CONNTRACK_FULL;
	}
	return DROP_NONE;
}

#endif
