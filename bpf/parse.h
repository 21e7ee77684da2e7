/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Parsing: Ethernet, ARP, IPv4 with options, IPv6 with extension headers, fragments, then
 * TCP, UDP, SCTP, ICMP and ICMPv6. A cursor is an offset into the packet; every access stands
 * behind its own bounds check.
 */
#ifndef SLUICE_PARSE_H
#define SLUICE_PARSE_H

#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include "packet.h"

#define MAX_EXTENSIONS 6
#define MAX_L4_OFFSET 512 /* bytes; what lies further back is not followed */
#define PULL_BYTES 256    /* headers up to here are made linear when they are not */

#define IPV4_MORE_FRAGMENTS bpf_htons(0x2000)
#define IPV4_FRAGMENT_OFFSET bpf_htons(0x1fff)
#define IPV6_FRAGMENT_OFFSET bpf_htons(0xfff8)
#define IPV6_MORE_FRAGMENTS bpf_htons(0x0001)

#define ICMPV6_ROUTER_SOLICITATION 133
#define ICMPV6_ROUTER_ADVERTISEMENT 134
#define ICMPV6_NEIGHBOUR_SOLICITATION 135
#define ICMPV6_NEIGHBOUR_ADVERTISEMENT 136
#define ICMPV6_REDIRECT 137
#define ICMPV6_LISTENER_QUERY 130
#define ICMPV6_LISTENER_DONE 132
#define ICMPV6_LISTENER_REPORT_2 143

/* Where a network header left the parser. */
struct cursor {
	void *data;
	void *end;
	__u32 offset;     /* of the next header, bytes */
	__u32 fragment;   /* identification */
	__u8 first;       /* the first fragment, or no fragment at all */
	__u8 fragmented;
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
	if (!(total == 0 && packet->skb->gso_segs > 1)) {
		if (total < header)
			return DROP_MALFORMED;
		if (at->offset + total > packet->skb->len)
			return DROP_TRUNCATED;
	}
	map_ipv4(&packet->source, ip->saddr);
	map_ipv4(&packet->destination, ip->daddr);
	packet->protocol = ip->protocol;
	at->hop_limit = ip->ttl;
	at->fragmented = (ip->frag_off & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET)) != 0;
	at->first = (ip->frag_off & IPV4_FRAGMENT_OFFSET) == 0;
	at->fragment = ip->id;
	at->offset += header;
	return DROP_NONE;
}

/* One extension header. Returns DROP_NONE after stepping over it; `*next` is what follows. */
static __always_inline int step_extension(struct cursor *at, __u8 *next)
{
	struct ipv6_opt_hdr *option = at->data + at->offset;
	struct {
		__u8 next;
		__u8 reserved;
		__be16 offset;
		__be32 id;
	} *fragment = (void *)option;

	if ((void *)(option + 1) > at->end)
		return DROP_TRUNCATED;
	if (*next == IPPROTO_FRAGMENT) {
		if ((void *)(fragment + 1) > at->end)
			return DROP_TRUNCATED;
		at->fragmented = (fragment->offset & (IPV6_FRAGMENT_OFFSET | IPV6_MORE_FRAGMENTS)) != 0;
		at->first = (fragment->offset & IPV6_FRAGMENT_OFFSET) == 0;
		at->fragment = fragment->id;
		at->offset += sizeof(*fragment);
	} else if (*next == IPPROTO_AH) {
		at->offset += (option->hdrlen + 2) * 4;
	} else {
		at->offset += (option->hdrlen + 1) * 8;
	}
	*next = option->nexthdr;
	return at->offset > MAX_L4_OFFSET ? DROP_EXTENSIONS : DROP_NONE;
}

static __always_inline bool is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_DSTOPTS || next == IPPROTO_AH;
}

static __always_inline int parse_ipv6(struct packet *packet, struct cursor *at)
{
	struct ipv6hdr *ip = at->data + at->offset;
	__u32 payload;
	__u8 next;
	int reason;

	if ((void *)(ip + 1) > at->end)
		return DROP_TRUNCATED;
	if (ip->version != 6)
		return DROP_MALFORMED;
	payload = bpf_ntohs(ip->payload_len);
	if (at->offset + sizeof(*ip) + payload > packet->skb->len)
		return DROP_TRUNCATED;
	copy_ipv6(&packet->source, &ip->saddr);
	copy_ipv6(&packet->destination, &ip->daddr);
	packet->is_ipv6 = 1;
	at->hop_limit = ip->hop_limit;
	at->first = 1;
	at->offset += sizeof(*ip);
	next = ip->nexthdr;
	for (int i = 0; i < MAX_EXTENSIONS && is_extension(next); i++) {
		reason = step_extension(at, &next);
		if (reason)
			return reason;
		if (!at->first) /* what follows is the middle of a datagram */
			break;
	}
	if (at->first && is_extension(next))
		return DROP_EXTENSIONS;
	packet->protocol = next;
	return DROP_NONE;
}

static __always_inline int parse_tcp(struct packet *packet, struct cursor *at)
{
	struct tcphdr *tcp = at->data + at->offset;
	__u8 flags;

	if ((void *)(tcp + 1) > at->end)
		return DROP_TRUNCATED;
	if (tcp->doff < 5)
		return DROP_MALFORMED;
	if (at->offset + tcp->doff * 4 > packet->skb->len)
		return DROP_TRUNCATED;
	flags = ((__u8 *)tcp)[13];
	if (!(flags & (TCP_SYN | TCP_RST | TCP_ACK)) ||
	    ((flags & TCP_SYN) && (flags & (TCP_FIN | TCP_RST))))
		return DROP_TCP_FLAGS;
	packet->tcp_flags = flags;
	packet->source_port = tcp->source;
	packet->destination_port = tcp->dest;
	return DROP_NONE;
}

/* UDP and SCTP both begin with the two ports. */
static __always_inline int parse_ports(struct packet *packet, struct cursor *at)
{
	__be16 *ports = at->data + at->offset;

	if ((void *)(ports + 4) > at->end)
		return DROP_TRUNCATED;
	packet->source_port = ports[0];
	packet->destination_port = ports[1];
	if (packet->protocol == IPPROTO_UDP && bpf_ntohs(ports[2]) < 8 && ports[2] != 0)
		return DROP_MALFORMED; /* 0 is a jumbogram, or left to segmentation offload */
	return DROP_NONE;
}

static __always_inline int parse_icmp(struct packet *packet, struct cursor *at)
{
	struct icmphdr *icmp = at->data + at->offset;

	if ((void *)(icmp + 1) > at->end)
		return DROP_TRUNCATED;
	packet->icmp_type = icmp->type;
	if (icmp->type == ICMP_ECHO || icmp->type == ICMP_ECHOREPLY) {
		packet->source_port = icmp->un.echo.id;
		packet->destination_port = icmp->un.echo.id;
	} else if (icmp->type == ICMP_DEST_UNREACH || icmp->type == ICMP_TIME_EXCEEDED ||
		   icmp->type == ICMP_PARAMETERPROB || icmp->type == ICMP_SOURCE_QUENCH) {
		packet->kind = KIND_ICMP_ERROR;
	}
	return DROP_NONE;
}

static __always_inline int parse_icmpv6(struct packet *packet, struct cursor *at)
{
	struct icmp6hdr *icmp = at->data + at->offset;
	__u8 type;

	if ((void *)(icmp + 1) > at->end)
		return DROP_TRUNCATED;
	type = icmp->icmp6_type;
	packet->icmp_type = type;
	if (type == ICMPV6_ECHO_REQUEST || type == ICMPV6_ECHO_REPLY) {
		packet->source_port = icmp->icmp6_dataun.u_echo.identifier;
		packet->destination_port = icmp->icmp6_dataun.u_echo.identifier;
	} else if (type < 128) {
		packet->kind = KIND_ICMP_ERROR;
	} else if (type >= ICMPV6_ROUTER_SOLICITATION && type <= ICMPV6_REDIRECT) {
		/* RFC 4861: from the link itself, or not at all */
		if (at->hop_limit != 255)
			return DROP_NEIGHBOUR;
		packet->kind = KIND_NEIGHBOUR;
	} else if ((type >= ICMPV6_LISTENER_QUERY && type <= ICMPV6_LISTENER_DONE) ||
		   type == ICMPV6_LISTENER_REPORT_2) {
		packet->kind = KIND_NEIGHBOUR;
	}
	return DROP_NONE;
}

/* A first fragment leaves its ports for those after it, which have none of their own. */
static __always_inline int remember_fragment(struct packet *packet, struct cursor *at)
{
	struct fragment_key key = {
		.source = packet->source,
		.destination = packet->destination,
		.id = at->fragment,
		.protocol = packet->protocol,
	};
	struct fragment ports = {
		.source_port = packet->source_port,
		.destination_port = packet->destination_port,
	};
	struct fragment *known;

	if (at->first) {
		fragments.update(&key, &ports);
		return DROP_NONE;
	}
	known = fragments.lookup(&key);
	if (!known)
		return DROP_FRAGMENT;
	packet->source_port = known->source_port;
	packet->destination_port = known->destination_port;
	packet->tcp_flags = TCP_ACK; /* never opens or closes anything */
	return DROP_NONE;
}

static __always_inline int parse_transport(struct packet *packet, struct cursor *at)
{
	int reason = DROP_NONE;

	packet->l4 = at->offset;
	if (at->offset > MAX_L4_OFFSET)
		return DROP_EXTENSIONS;
	if (at->first) {
		if (packet->protocol == IPPROTO_TCP)
			reason = parse_tcp(packet, at);
		else if (packet->protocol == IPPROTO_UDP || packet->protocol == IPPROTO_SCTP)
			reason = parse_ports(packet, at);
		else if (packet->protocol == IPPROTO_ICMP && !packet->is_ipv6)
			reason = parse_icmp(packet, at);
		else if (packet->protocol == IPPROTO_ICMPV6 && packet->is_ipv6)
			reason = parse_icmpv6(packet, at);
	}
	if (!reason && at->fragmented)
		reason = remember_fragment(packet, at);
	return reason;
}

static __always_inline int parse_headers(struct packet *packet)
{
	struct cursor at = {
		.data = (void *)(long)packet->skb->data,
		.end = (void *)(long)packet->skb->data_end,
		.offset = sizeof(struct ethhdr),
	};
	struct ethhdr *ethernet = at.data;
	int reason;

	if ((void *)(ethernet + 1) > at.end)
		return DROP_TRUNCATED;
	packet->kind = KIND_FLOW;
	if (packet->skb->vlan_present)
		return DROP_PROTOCOL;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		reason = parse_ipv4(packet, &at);
	else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6))
		reason = parse_ipv6(packet, &at);
	else if (ethernet->h_proto == bpf_htons(ETH_P_ARP))
		return parse_arp(packet, &at);
	else
		return DROP_PROTOCOL;
	return reason ? reason : parse_transport(packet, &at);
}

/* Headers that lie in the packet's pages are made linear, and then tried once more. */
static __always_inline int parse(struct packet *packet)
{
	int reason = DROP_TRUNCATED;

	for (int attempt = 0; attempt < 2; attempt++) {
		__u32 linear = packet->skb->data_end - packet->skb->data;
		__u32 length = packet->skb->len;

		reason = parse_headers(packet);
		if (reason != DROP_TRUNCATED || linear >= length || linear >= PULL_BYTES)
			return reason;
		if (bpf_skb_pull_data(packet->skb, length < PULL_BYTES ? length : PULL_BYTES))
			return DROP_RELOAD;
	}
	return reason;
}

#endif
