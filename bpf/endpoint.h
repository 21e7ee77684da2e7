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
	struct workload_key key = {.ifindex = packet->skb->ifindex};

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
 * Neighbour discovery is never routed. What is addressed to the node's own MAC is routed on unless
 * it is for the link or for the node itself.
 */
static __always_inline bool stays_on_link(struct packet *packet)
{
	const struct address *to = &packet->destination;

	return packet->skb->pkt_type != PACKET_HOST_TYPE || is_link_local(to) || is_node(to) ||
	       (to->word[0] & bpf_htonl(0xffff0000)) == bpf_htonl(0xff020000);
}

/* An advertisement, and the question whether an address is free, claim the target. */
static __always_inline int check_target(struct packet *packet)
{
	bool asks = packet->icmp_type == ICMPV6_NEIGHBOUR_SOLICITATION &&
	            is_unspecified(&packet->source);
	struct address target;

	if (!asks && packet->icmp_type != ICMPV6_NEIGHBOUR_ADVERTISEMENT)
		return DROP_NONE;
	/* it follows the 8 bytes of the ICMPv6 header */
	if (packet->l4 + 8 + sizeof(target) > packet->end ||
	    bpf_skb_load_bytes(packet->skb, packet->l4 + 8, &target, sizeof(target)))
		return DROP_TRUNCATED;
	return is_link_local(&target) || owns(packet, &target) ? DROP_NONE : DROP_NEIGHBOUR;
}

/*
 * A workload may ask for anybody's link-layer address, but speak only for itself, and never as a
 * router. ARP probes and duplicate address detection come from the unspecified address.
 */
static __always_inline int check_neighbour(struct packet *packet)
{
	if (packet->kind == KIND_ARP)
		return is_unspecified(&packet->source) || owns(packet, &packet->source)
		               ? DROP_NONE
		               : DROP_NEIGHBOUR;
	if (packet->icmp_type == ICMPV6_ROUTER_ADVERTISEMENT ||
	    packet->icmp_type == ICMPV6_REDIRECT || packet->icmp_type == ICMPV6_LISTENER_QUERY)
		return DROP_NEIGHBOUR;
	if (!is_unspecified(&packet->source) && !is_link_local(&packet->source) &&
	    !owns(packet, &packet->source))
		return DROP_NEIGHBOUR;
	return stays_on_link(packet) ? check_target(packet) : DROP_NEIGHBOUR;
}

static __always_inline int check_source(struct packet *packet)
{
	return owns(packet, &packet->source) ? DROP_NONE : DROP_SOURCE;
}

/*
 * What comes in from elsewhere must not bear an address that lives on this node: only the node
 * itself sends from its own, and a workload's only comes from behind its interface.
 */
static __always_inline int check_foreign_source(struct packet *packet)
{
	__u32 from = packet->skb->ingress_ifindex; /* 0: made on the node */
	struct local_addr *local;

	if (!from)
		return DROP_NONE;
	local = local_addrs.lookup(&packet->source);
	if (local)
		return local->ifindex == from ? DROP_NONE : DROP_SOURCE;
	return is_node(&packet->source) ? DROP_SOURCE : DROP_NONE;
}

static __always_inline void find_destination(struct packet *packet)
{
	packet->to_local = local_addrs.lookup(&packet->destination);
}

/*
 * What goes out to a workload is for its own addresses, or in a frame for all or many. Behind a
 * bridge, copies of what is for others come along too.
 */
static __always_inline int check_destination(struct packet *packet)
{
	__u8 first = 0; /* byte of the destination MAC; its lowest bit says group */

	if (packet->to_local)
		return packet->to_local->ifindex == packet->skb->ifindex ? DROP_NONE
		                                                         : DROP_DESTINATION;
	bpf_skb_load_bytes(packet->skb, 0, &first, 1);
	return first & 1 ? DROP_NONE : DROP_DESTINATION;
}

#endif
