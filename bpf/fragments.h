/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fragments. The first one leaves its protocol and ports for those after it, which have none of
 * their own. Called once the source is known to be genuine: nobody speaks for another's datagram.
 */
#ifndef SLUICE_FRAGMENTS_H
#define SLUICE_FRAGMENTS_H

#include <linux/in.h>
#include <linux/tcp.h>

#include "packet.h"

static __always_inline void remember_fragment(struct packet *packet, struct fragment_key *key)
{
	struct fragment first = {
		.source_port = packet->source_port,
		.destination_port = packet->destination_port,
		.protocol = packet->protocol,
	};

	fragments.update(key, &first);
}

static __always_inline int find_fragment(struct packet *packet)
{
	struct fragment_key key = {
		.source = packet->source,
		.destination = packet->destination,
		.id = packet->fragment_id,
		.protocol = packet->is_ipv6 ? 0 : packet->protocol,
	};
	struct fragment *first;

	if (!packet->is_fragment)
		return DROP_NONE;
	if (!packet->fragment_offset) {
		remember_fragment(packet, &key);
		return DROP_NONE;
	}
	first = fragments.lookup(&key);
	if (!first)
		return DROP_FRAGMENT;
	/* RFC 3128: it would rewrite the flags that have been judged */
	if (first->protocol == IPPROTO_TCP && packet->fragment_offset < sizeof(struct tcphdr))
		return DROP_FRAGMENT;
	packet->protocol = first->protocol;
	packet->source_port = first->source_port;
	packet->destination_port = first->destination_port;
	packet->tcp_flags = TCP_ACK; /* opens and closes nothing */
	return DROP_NONE;
}

#endif
