/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Policy: identities of both ends, then the egress side of a local source and the ingress side
 * of a local destination. It is always asked about the flow as its originator opened it, also
 * when the packet in hand is a reply.
 */
#ifndef SLUICE_POLICY_H
#define SLUICE_POLICY_H

#include "packet.h"

/* One flow as policy sees it. */
struct question {
	struct local_addr *source; /* NULL: its egress is not judged here */
	struct local_addr *destination;
	__u32 source_identity;
	__u32 destination_identity;
	__be16 port; /* of the destination */
	__u8 protocol;
};

static __always_inline struct identity_value *find_identity(const struct address *address)
{
	struct identity_key key = { .prefixlen = 128, .address = *address };

	return identities.lookup(&key);
}

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

/* The question about the flow that the packet belongs to, whichever way the packet goes. */
static __always_inline void pose(struct packet *packet, struct question *question)
{
	bool reply = packet->way == FLOW_REPLY;
	struct address *from = reply ? &packet->destination : &packet->source;
	struct address *to = reply ? &packet->source : &packet->destination;
	struct identity_value *identity;

	question->source = local_addrs.lookup(from);
	question->destination = local_addrs.lookup(to);
	identity = find_identity(from);
	question->source_identity = identity ? identity->identity : IDENTITY_WORLD;
	identity = find_identity(to);
	question->destination_identity = identity ? identity->identity : IDENTITY_WORLD;
	question->port = reply ? packet->source_port : packet->destination_port;
	question->protocol = packet->protocol;
	packet->source_identity = reply ? question->destination_identity :
					  question->source_identity;
	packet->destination_identity = reply ? question->source_identity :
					       question->destination_identity;
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
	if (question.source) {
		row = judge_side(question.source->identity, question.destination_identity,
				 DIRECTION_EGRESS, &question);
		packet->verdict = row ? row->verdict : VERDICT_DENY;
		packet->rule = row ? row->rule : 0;
		packet->tenant = question.source->tenant;
		if (packet->verdict == VERDICT_DENY)
			return DROP_POLICY_EGRESS;
	}
	if (question.destination) {
		row = judge_side(question.destination->identity, question.source_identity,
				 DIRECTION_INGRESS, &question);
		packet->rule = row ? row->rule : 0;
		packet->count_ingress = !row || row->verdict == VERDICT_DENY;
		if (packet->count_ingress) {
			packet->verdict = VERDICT_DENY;
			return DROP_POLICY_INGRESS;
		}
		if (row->verdict != VERDICT_ALLOW || packet->verdict == VERDICT_ALLOW) {
			packet->verdict = row->verdict;
			packet->tenant = question.destination->tenant;
		}
	}
	return DROP_NONE;
}

#endif
