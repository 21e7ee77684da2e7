/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Accounting, the only exit: one counter per packet, one event per drop, per new flow and per
 * handoff. A packet made for a question is answered instead.
 */
#ifndef SLUICE_ACCOUNT_H
#define SLUICE_ACCOUNT_H

#include <linux/pkt_cls.h>

#include "packet.h"

static __always_inline void count(struct packet *packet, int reason, __u32 identity, __u8 direction)
{
	struct counter_key key = {.identity = identity, .reason = reason, .direction = direction};
	struct counter first = {.packets = 1, .bytes = packet->skb->len};
	struct counter *counter = counters.lookup(&key);

	if (!counter) {
		counters.update(&key, &first);
		return;
	}
	counter->packets += 1; /* per CPU */
	counter->bytes += packet->skb->len;
}

static __always_inline void report(struct packet *packet, int reason, __u8 direction)
{
	struct event *event = events.ringbuf_reserve(sizeof(*event));

	if (!event) {
		count_stat(STAT_EVENTS_LOST);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time = packet->now;
	event->source = packet->source;
	event->destination = packet->destination;
	event->source_identity = packet->source_identity;
	event->destination_identity = packet->destination_identity;
	event->rule = packet->rule;
	event->ifindex = packet->skb->ifindex;
	event->length = packet->skb->len;
	event->tenant = packet->verdict == VERDICT_HANDOFF ? packet->tenant : 0;
	event->source_port = packet->source_port;
	event->destination_port = packet->destination_port;
	event->type = reason                               ? EVENT_DROP
	              : packet->verdict == VERDICT_HANDOFF ? EVENT_HANDOFF
	                                                   : EVENT_POLICY;
	event->verdict = packet->verdict;
	event->reason = reason;
	event->direction = direction;
	event->protocol = packet->protocol;
	event->tcp_flags = packet->tcp_flags;
	events.ringbuf_submit(event, 0);
}

/* Whom a packet is counted for: whose policy denied it, else the workload at the interface. */
static __always_inline void count_for(struct packet *packet, int reason)
{
	__u8 direction = packet->hook == TO_WORKLOAD ? DIRECTION_INGRESS : DIRECTION_EGRESS;
	__u32 identity = packet->workload ? packet->workload->identity : 0;

	if (reason && packet->denied_identity) {
		identity = packet->denied_identity;
		direction = packet->denied_direction;
	}
	count(packet, reason, identity, direction);
	if (reason || packet->is_new)
		report(packet, reason, direction);
}

static __always_inline void answer(struct packet *packet, int reason)
{
	struct answer answer = {
		.verdict = packet->verdict,
		.reason = reason,
		.mark = ANSWER_MARK,
		.egress_rule = packet->egress_rule,
		.ingress_rule = packet->ingress_rule,
		.tenant = packet->verdict == VERDICT_HANDOFF ? packet->tenant : 0,
	};
	__u32 *word = (__u32 *)&answer;

	/* one by one: the context takes no wider writes */
	packet->skb->cb[0] = word[0];
	packet->skb->cb[1] = word[1];
	packet->skb->cb[2] = word[2];
	packet->skb->cb[3] = word[3];
}

/* `action` is the answer for a packet that lives. */
static __always_inline int account(struct packet *packet, int reason, int action)
{
	if (packet->is_question)
		answer(packet, reason);
	else
		count_for(packet, reason);
	return reason ? TC_ACT_SHOT : action;
}

#endif
