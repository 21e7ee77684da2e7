/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Endpoints: who sits behind the interface, whether it may use the source address, and whether
 * the destination lives on this node.
 */
#ifndef SLUICE_ENDPOINT_H
#define SLUICE_ENDPOINT_H

#include "parse.h"

static __always_inline int find_workload(struct packet *packet)
{
	struct workload_key key = { .ifindex = packet->skb->ifindex };

	packet->workload = workloads.lookup(&key);
	return packet->workload ? DROP_NONE : DROP_NO_WORKLOAD;
}

static __always_inline bool owns(struct packet *packet, struct address *address)
{
	struct local_addr *local = local_addrs.lookup(address);

	return local && local->ifindex == packet->skb->ifindex;
}

static __always_inline bool is_unspecified(const struct address *address)
{
	return (address->word[0] | address->word[1] | address->word[3]) == 0 &&
	       (address->word[2] == 0 || address->word[2] == bpf_htonl(0xffff));
}

static __always_inline bool is_link_local(const struct address *address)
{
	return (address->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/*
 * A workload may ask for anybody's link-layer address, but speak only for itself, and never as a
 * router. ARP probes and duplicate address detection come from the unspecified address.
 */
static __always_inline int check_neighbour(struct packet *packet)
{
	struct address target;

	if (packet->kind == KIND_ARP)
		return is_unspecified(&packet->source) || owns(packet, &packet->source) ?
			       DROP_NONE :
			       DROP_NEIGHBOUR;
	if (packet->icmp_type == ICMPV6_ROUTER_ADVERTISEMENT ||
	    packet->icmp_type == ICMPV6_REDIRECT || packet->icmp_type == ICMPV6_LISTENER_QUERY)
		return DROP_NEIGHBOUR;
	if (!is_unspecified(&packet->source) && !is_link_local(&packet->source) &&
	    !owns(packet, &packet->source))
		return DROP_NEIGHBOUR;
	if (packet->icmp_type != ICMPV6_NEIGHBOUR_ADVERTISEMENT)
		return DROP_NONE;
	/* the target follows the 8 bytes of the ICMPv6 header */
	if (bpf_skb_load_bytes(packet->skb, packet->l4 + 8, &target, sizeof(target)))
		return DROP_TRUNCATED;
	return is_link_local(&target) || owns(packet, &target) ? DROP_NONE : DROP_NEIGHBOUR;
}

static __always_inline int check_source(struct packet *packet)
{
	return owns(packet, &packet->source) ? DROP_NONE : DROP_SOURCE;
}

static __always_inline void find_destination(struct packet *packet)
{
	packet->to_local = local_addrs.lookup(&packet->destination);
}

#endif
