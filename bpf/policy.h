/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Policy: identities of both ends, then the egress side of a local source and the ingress side
 * of a local destination. It is always asked about the flow as its originator opened it, also
 * when the packet in hand is a reply.
 */
#ifndef SLUICE_POLICY_H
#define SLUICE_POLICY_H

#include "packet.h"

/* A local end, whose policy is asked. */
struct subject {
	__u32 identity; /* 0: it is not local */
	__u32 tenant;
};

/* One flow as policy sees it. */
struct question {
	struct subject source;
	struct subject destination;
	__u32 source_identity; /* as a peer */
	__u32 destination_identity;
	__be16 port; /* of the destination */
	__u8 protocol;
};

static __always_inline struct policy_value *find_rule(__u32 subject, __u32 peer, __u8 direction,
                                                      const struct question *question)
{
	struct policy_key key = {
		.prefixlen = 96,
		.subject = subject,
		.peer = peer,
		.direction = direction,
		.protocol = question->protocol,
		.port = question->port,
	};

	return policy.lookup(&key);
}

/* Of the row for this very peer and the one for every peer, the higher precedence decides. */
static __always_inline struct policy_value *judge_side(__u32 subject, __u32 peer, __u8 direction,
                                                       const struct question *question)
{
	struct policy_value *narrow = find_rule(subject, peer, direction, question);
	struct policy_value *wide = find_rule(subject, IDENTITY_ANY, direction, question);

	if (!narrow || (wide && wide->precedence > narrow->precedence))
		return wide;
	return narrow;
}

static __always_inline void find_subject(struct subject *subject, const struct address *address)
{
	struct local_addr *local = local_addrs.lookup((struct address *)address);

	if (local) {
		subject->identity = local->identity;
		subject->tenant = local->tenant;
	}
}

static __always_inline __u32 peer_identity(const struct address *address)
{
	struct identity_value *identity = find_identity(address);

	return identity ? identity->identity : IDENTITY_WORLD;
}

/*
 * The question about the flow that the packet belongs to, whichever way the packet goes. What
 * goes out to a workload is judged by that workload's policy, also when it is for a group.
 */
static __always_inline void pose(struct packet *packet, struct question *question)
{
	bool reply = packet->way == FLOW_REPLY;
	struct address *from = reply ? &packet->destination : &packet->source;
	struct address *to = reply ? &packet->source : &packet->destination;

	find_subject(&question->source, from);
	find_subject(&question->destination, to);
	if (packet->hook == TO_WORKLOAD && packet->workload && !reply) {
		question->destination.identity = packet->workload->identity;
		question->destination.tenant = packet->workload->tenant;
	}
	question->source_identity = peer_identity(from);
	question->destination_identity = peer_identity(to);
	question->port = reply ? packet->source_port : packet->destination_port;
	question->protocol = packet->protocol;
	packet->source_identity =
		reply ? question->destination_identity : question->source_identity;
	packet->destination_identity =
		reply ? question->source_identity : question->destination_identity;
}

static __always_inline int deny(struct packet *packet, __u32 identity, __u8 direction)
{
	packet->verdict = VERDICT_DENY;
	packet->denied_identity = identity;
	packet->denied_direction = direction;
	return direction == DIRECTION_INGRESS ? DROP_POLICY_INGRESS : DROP_POLICY_EGRESS;
}

/* Of both sides' verdicts, HANDOFF outranks AUDIT, and AUDIT outranks ALLOW. */
static __always_inline bool outranks(__u8 verdict, __u8 other)
{
	return verdict != other && other != VERDICT_HANDOFF && verdict != VERDICT_ALLOW;
}

static __always_inline void settle(struct packet *packet, const struct policy_value *row,
                                   __u32 tenant)
{
	packet->verdict = row->verdict;
	packet->rule = row->rule;
	packet->tenant = tenant;
}

/*
 * Writes verdict, rule and, for a handoff, whose proxy: the destination's tenant when its own
 * side asks for the handoff, else the source's.
 */
static __always_inline int judge(struct packet *packet)
{
	struct question question = {};
	struct policy_value *row;

	pose(packet, &question);
	packet->verdict = VERDICT_ALLOW;
	packet->rule = 0;
	if (question.source.identity) {
		row = judge_side(question.source.identity, question.destination_identity,
		                 DIRECTION_EGRESS, &question);
		packet->rule = row ? row->rule : 0;
		packet->egress_rule = packet->rule;
		if (!row || row->verdict == VERDICT_DENY)
			return deny(packet, question.source.identity, DIRECTION_EGRESS);
		settle(packet, row, question.source.tenant);
	}
	if (question.destination.identity) {
		row = judge_side(question.destination.identity, question.source_identity,
		                 DIRECTION_INGRESS, &question);
		packet->ingress_rule = row ? row->rule : 0;
		if (!row || row->verdict == VERDICT_DENY) {
			packet->rule = packet->ingress_rule;
			return deny(packet, question.destination.identity, DIRECTION_INGRESS);
		}
		if (!outranks(packet->verdict, row->verdict))
			settle(packet, row, question.destination.tenant);
	}
	return DROP_NONE;
}

#endif
