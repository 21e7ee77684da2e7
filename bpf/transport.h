/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Parsing the transport layer: TCP, UDP, SCTP, ICMP and ICMPv6. What lies behind the end of the IP
 * datagram is padding, and no header.
 */
#ifndef SLUICE_TRANSPORT_H
#define SLUICE_TRANSPORT_H

#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/in.h>
#include <linux/tcp.h>

#include "network.h"

#define ICMPV6_ROUTER_SOLICITATION 133
#define ICMPV6_ROUTER_ADVERTISEMENT 134
#define ICMPV6_NEIGHBOUR_SOLICITATION 135
#define ICMPV6_NEIGHBOUR_ADVERTISEMENT 136
#define ICMPV6_REDIRECT 137
#define ICMPV6_LISTENER_QUERY 130
#define ICMPV6_LISTENER_DONE 132
#define ICMPV6_LISTENER_REPORT_2 143

static __always_inline int parse_tcp(struct packet *packet, struct cursor *at)
{
	struct tcphdr *tcp = at->data + at->offset;
	__u8 flags;

	if ((void *)(tcp + 1) > at->end || at->offset + sizeof(*tcp) > packet->end)
		return DROP_TRUNCATED;
	if (tcp->doff < 5)
		return DROP_MALFORMED;
	if (at->offset + tcp->doff * 4 > packet->end)
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
	__u32 header = packet->protocol == IPPROTO_SCTP ? 12 : 8; /* bytes */

	if ((void *)(ports + 4) > at->end || at->offset + header > packet->end)
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

	if ((void *)(icmp + 1) > at->end || at->offset + sizeof(*icmp) > packet->end)
		return DROP_TRUNCATED;
	packet->icmp_type = icmp->type;
	/* A question from the answering end must not look like an answer, hence one end's port. */
	if (icmp->type == ICMP_ECHO)
		packet->source_port = icmp->un.echo.id;
	else if (icmp->type == ICMP_ECHOREPLY)
		packet->destination_port = icmp->un.echo.id;
	else if (icmp->type == ICMP_DEST_UNREACH || icmp->type == ICMP_TIME_EXCEEDED ||
	         icmp->type == ICMP_PARAMETERPROB || icmp->type == ICMP_SOURCE_QUENCH ||
	         icmp->type == ICMP_REDIRECT)
		packet->kind = KIND_ICMP_ERROR;
	return DROP_NONE;
}

static __always_inline bool is_discovery(__u8 type)
{
	return type >= ICMPV6_ROUTER_SOLICITATION && type <= ICMPV6_REDIRECT;
}

static __always_inline bool is_listener(__u8 type)
{
	return (type >= ICMPV6_LISTENER_QUERY && type <= ICMPV6_LISTENER_DONE) ||
	       type == ICMPV6_LISTENER_REPORT_2;
}

/*
 * What is exempt from policy must not get past the link: neighbour discovery comes from it (RFC
 * 4861) and is never fragmented (RFC 6980); listener messages go one hop, to groups (RFC 3810).
 */
static __always_inline int check_link_scope(struct packet *packet, struct cursor *at, __u8 type)
{
	bool group = (packet->destination.word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);

	if (packet->is_fragment)
		return DROP_NEIGHBOUR;
	if (is_discovery(type) ? at->hop_limit != 255 : (at->hop_limit != 1 || !group))
		return DROP_NEIGHBOUR;
	packet->kind = KIND_NEIGHBOUR;
	return DROP_NONE;
}

static __always_inline int parse_icmpv6(struct packet *packet, struct cursor *at)
{
	struct icmp6hdr *icmp = at->data + at->offset;
	__u8 type;

	if ((void *)(icmp + 1) > at->end || at->offset + sizeof(*icmp) > packet->end)
		return DROP_TRUNCATED;
	type = icmp->icmp6_type;
	packet->icmp_type = type;
	if (type == ICMPV6_ECHO_REQUEST)
		packet->source_port = icmp->icmp6_dataun.u_echo.identifier;
	else if (type == ICMPV6_ECHO_REPLY)
		packet->destination_port = icmp->icmp6_dataun.u_echo.identifier;
	else if (type < 128)
		packet->kind = KIND_ICMP_ERROR;
	else if (is_discovery(type) || is_listener(type))
		return check_link_scope(packet, at, type);
	return DROP_NONE;
}

static __always_inline int parse_transport(struct packet *packet, struct cursor *at)
{
	packet->l4 = at->offset;
	if (at->offset > MAX_L4_OFFSET)
		return DROP_EXTENSIONS;
	if (packet->fragment_offset)
		return DROP_NONE; /* its ports are those of the first fragment */
	if (packet->protocol == IPPROTO_TCP)
		return parse_tcp(packet, at);
	if (packet->protocol == IPPROTO_UDP || packet->protocol == IPPROTO_SCTP)
		return parse_ports(packet, at);
	if (packet->protocol == IPPROTO_ICMP && !packet->is_ipv6)
		return parse_icmp(packet, at);
	if (packet->protocol == IPPROTO_ICMPV6 && packet->is_ipv6)
		return parse_icmpv6(packet, at);
	return DROP_NONE;
}

#endif
