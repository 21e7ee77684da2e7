/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Parsing the network layer: ARP, IPv4 with options, IPv6 with extension headers, fragments. A
 * cursor is an offset into the packet; every access stands behind its own bounds check.
 */
#ifndef SLUICE_NETWORK_H
#define SLUICE_NETWORK_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "packet.h"

#define MAX_EXTENSIONS 6
#define MAX_L4_OFFSET 512 /* bytes; what lies further back is not followed */

#define IPV4_MORE_FRAGMENTS bpf_htons(0x2000)
#define IPV4_FRAGMENT_OFFSET bpf_htons(0x1fff)
#define IPV4_OPTION_END 0
#define IPV4_OPTION_NOP 1
#define IPV4_OPTION_LOOSE_ROUTE 131
#define IPV4_OPTION_STRICT_ROUTE 137
#define MAX_OPTIONS 12
#define IPV6_FRAGMENT_OFFSET bpf_htons(0xfff8)
#define IPV6_MORE_FRAGMENTS bpf_htons(0x0001)

/* Where a network header left the parser. */
struct cursor {
	void *data;
	void *end;
	__u32 offset; /* of the next header, bytes */
	__u8 hop_limit;
};

static __always_inline void map_ipv4(struct address *address, __be32 ipv4)
{
	address->word[0] = 0;
	address->word[1] = 0;
	address->word[2] = bpf_htonl(0xffff);
	address->word[3] = ipv4;
}

static __always_inline void copy_ipv6(struct address *address, const struct in6_addr *ipv6)
{
	address->word[0] = ipv6->in6_u.u6_addr32[0];
	address->word[1] = ipv6->in6_u.u6_addr32[1];
	address->word[2] = ipv6->in6_u.u6_addr32[2];
	address->word[3] = ipv6->in6_u.u6_addr32[3];
}

/* ARP for IPv4 over Ethernet, RFC 826. */
struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
} __attribute__((packed));

/* The sender's address and the one asked for become the packet's ends. */
static __always_inline int parse_arp(struct packet *packet, struct cursor *at)
{
	struct arp *arp = at->data + at->offset;
	__be32 sender, target;

	if ((void *)(arp + 1) > at->end)
		return DROP_TRUNCATED;
	if (arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_length != 6 ||
	    arp->protocol_length != 4)
		return DROP_MALFORMED;
	__builtin_memcpy(&sender, arp->sender, 4);
	__builtin_memcpy(&target, arp->target, 4);
	map_ipv4(&packet->source, sender);
	map_ipv4(&packet->destination, target);
	packet->kind = KIND_ARP;
	return DROP_NONE;
}

static __always_inline int parse_ipv4(struct packet *packet, struct cursor *at)
{
	struct iphdr *ip = at->data + at->offset;
	__u32 header, total;

	if ((void *)(ip + 1) > at->end)
		return DROP_TRUNCATED;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || header < sizeof(*ip))
		return DROP_MALFORMED;
	/* A segmentation-offload packet of 64 KiB or more says 0. */
	if (total == 0 && packet->skb->gso_segs > 1)
		total = packet->skb->len - at->offset;
	if (total < header)
		return DROP_MALFORMED;
	packet->end = at->offset + total;
	if (packet->end > packet->skb->len)
		return DROP_TRUNCATED;
	map_ipv4(&packet->source, ip->saddr);
	map_ipv4(&packet->destination, ip->daddr);
	packet->protocol = ip->protocol;
	at->hop_limit = ip->ttl;
	packet->is_fragment = (ip->frag_off & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET)) != 0;
	packet->fragment_offset = bpf_ntohs(ip->frag_off & IPV4_FRAGMENT_OFFSET) * 8;
	packet->fragment_id = ip->id;
	at->offset += header;
	return DROP_NONE;
}

/* Fragment header, RFC 8200, 4.5. One is enough for any sender. */
static __always_inline int step_fragment(struct packet *packet, struct cursor *at)
{
	struct {
		__u8 next;
		__u8 reserved;
		__be16 offset;
		__be32 id;
	} *fragment = at->data + at->offset;

	if ((void *)(fragment + 1) > at->end || at->offset + sizeof(*fragment) > packet->end)
		return DROP_TRUNCATED;
	if (packet->fragment_id || packet->is_fragment)
		return DROP_MALFORMED;
	packet->is_fragment =
		(fragment->offset & (IPV6_FRAGMENT_OFFSET | IPV6_MORE_FRAGMENTS)) != 0;
	packet->fragment_offset = bpf_ntohs(fragment->offset & IPV6_FRAGMENT_OFFSET);
	packet->fragment_id = fragment->id;
	at->offset += sizeof(*fragment);
	return DROP_NONE;
}

/* One extension header. Returns DROP_NONE after stepping over it; `*next` is what follows. */
static __always_inline int step_extension(struct packet *packet, struct cursor *at, __u8 *next)
{
	struct ipv6_rt_hdr *option = at->data + at->offset;
	__u8 type = *next;

	if ((void *)(option + 1) > at->end || at->offset + sizeof(*option) > packet->end)
		return DROP_TRUNCATED;
	*next = option->nexthdr;
	if (type == IPPROTO_FRAGMENT)
		return step_fragment(packet, at);
	if (type == IPPROTO_ROUTING && option->segments_left)
		return DROP_EXTENSIONS; /* it leads past what policy is asked about */
	at->offset += type == IPPROTO_AH ? (option->hdrlen + 2) * 4 : (option->hdrlen + 1) * 8;
	return at->offset > MAX_L4_OFFSET ? DROP_EXTENSIONS : DROP_NONE;
}

static __always_inline bool is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_DSTOPTS || next == IPPROTO_AH;
}

static __always_inline int step_extensions(struct packet *packet, struct cursor *at, __u8 next)
{
	int reason;

	for (int i = 0; i < MAX_EXTENSIONS && is_extension(next); i++) {
		reason = step_extension(packet, at, &next);
		if (reason)
			return reason;
		if (packet->fragment_offset) /* what follows is the middle of a datagram */
			break;
	}
	if (!packet->fragment_offset && is_extension(next))
		return DROP_EXTENSIONS;
	packet->protocol = next;
	return DROP_NONE;
}

static __always_inline bool is_mapped(const struct address *address)
{
	return (address->word[0] | address->word[1]) == 0 && address->word[2] == bpf_htonl(0xffff);
}

static __always_inline int parse_ipv6(struct packet *packet, struct cursor *at)
{
	struct ipv6hdr *ip = at->data + at->offset;
	__u32 payload;

	if ((void *)(ip + 1) > at->end)
		return DROP_TRUNCATED;
	if (ip->version != 6)
		return DROP_MALFORMED;
	at->offset += sizeof(*ip);
	payload = bpf_ntohs(ip->payload_len);
	/* A segmentation-offload packet of 64 KiB or more says 0; no other jumbogram is taken. */
	if (payload == 0 && packet->skb->gso_segs > 1)
		payload = packet->skb->len - at->offset;
	packet->end = at->offset + payload;
	if (packet->end > packet->skb->len)
		return DROP_TRUNCATED;
	copy_ipv6(&packet->source, &ip->saddr);
	copy_ipv6(&packet->destination, &ip->daddr);
	if (is_mapped(&packet->source) || is_mapped(&packet->destination))
		return DROP_MALFORMED; /* would pass for IPv4 in every map */
	packet->is_ipv6 = 1;
	at->hop_limit = ip->hop_limit;
	return step_extensions(packet, at, ip->nexthdr);
}

/* Source routing would lead past what policy is asked about. Options as of RFC 791, 3.1. */
static __always_inline int check_options(struct packet *packet)
{
	__u32 at = ETH_HLEN + sizeof(struct iphdr);
	__u8 type, length;

	for (int i = 0; i < MAX_OPTIONS && at < packet->l4; i++) {
		if (bpf_skb_load_bytes(packet->skb, at, &type, 1))
			return DROP_TRUNCATED;
		if (type == IPV4_OPTION_END)
			return DROP_NONE;
		if (type == IPV4_OPTION_LOOSE_ROUTE || type == IPV4_OPTION_STRICT_ROUTE)
			return DROP_EXTENSIONS;
		if (type == IPV4_OPTION_NOP)
			length = 1;
		else if (bpf_skb_load_bytes(packet->skb, at + 1, &length, 1) || length < 2)
			return DROP_MALFORMED;
		at += length;
	}
	if (at < packet->l4)
		return DROP_EXTENSIONS;
	return at > packet->l4 ? DROP_MALFORMED : DROP_NONE;
}

#endif
