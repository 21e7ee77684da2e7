/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ICMP errors. An error passes when the packet that it quotes belongs to a flow whose verdict
 * lets packets pass; it goes where that flow's packets go.
 */
#ifndef SLUICE_RELATED_H
#define SLUICE_RELATED_H

#include "conntrack.h"
#include "parse.h"

#define ICMP_HEADER 8 /* bytes before the quoted packet */

/* Reads the quoted packet's ends, turned round: as a packet that would answer it. */
static __always_inline int quote_ipv4(struct packet *packet, __u32 at, __u32 *ports)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(packet->skb, at, &ip, sizeof(ip)))
		return DROP_TRUNCATED;
	if (ip.version != 4 || ip.ihl < 5)
		return DROP_MALFORMED;
	map_ipv4(&packet->source, ip.daddr);
	map_ipv4(&packet->destination, ip.saddr);
	packet->protocol = ip.protocol;
	*ports = at + ip.ihl * 4;
	return ip.frag_off & IPV4_FRAGMENT_OFFSET ? DROP_ICMP_UNRELATED : DROP_NONE;
}

static __always_inline int quote_ipv6(struct packet *packet, __u32 at, __u32 *ports)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(packet->skb, at, &ip, sizeof(ip)))
		return DROP_TRUNCATED;
	if (ip.version != 6)
		return DROP_MALFORMED;
	copy_ipv6(&packet->source, &ip.daddr);
	copy_ipv6(&packet->destination, &ip.saddr);
	packet->protocol = ip.nexthdr;
	*ports = at + sizeof(ip);
	return DROP_NONE;
}

/* Echo has its identifier at the end that asked: the quoted packet's source, or of a reply, not. */
static __always_inline void quote_echo(struct packet *packet, __u8 type, __be16 id)
{
	bool reply = packet->is_ipv6 ? type == ICMPV6_ECHO_REPLY : type == ICMP_ECHOREPLY;

	packet->source_port = reply ? id : 0;
	packet->destination_port = reply ? 0 : id;
}

static __always_inline int quote_ports(struct packet *packet, __u32 at)
{
	__be16 word[4];
	bool echo = packet->protocol == (packet->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);

	if (bpf_skb_load_bytes(packet->skb, at, word, sizeof(word)))
		return DROP_TRUNCATED;
	packet->source_port = word[1];
	packet->destination_port = word[0];
	if (echo)
		quote_echo(packet, *(__u8 *)word, word[2]);
	return DROP_NONE;
}

/*
 * Puts the quoted flow's ends in the packet's place and finds that flow. The error must have
 * been sent to the quoted packet's source.
 */
static __always_inline int find_quoted(struct packet *packet)
{
	struct address sent_to = packet->destination;
	__u32 ports = 0;
	int reason;

	reason = packet->is_ipv6 ? quote_ipv6(packet, packet->l4 + ICMP_HEADER, &ports)
	                         : quote_ipv4(packet, packet->l4 + ICMP_HEADER, &ports);
	if (reason)
		return reason;
	if (!same_address(&sent_to, &packet->destination))
		return DROP_ICMP_UNRELATED;
	reason = quote_ports(packet, ports);
	if (reason)
		return reason;
	packet->tcp_flags = TCP_ACK; /* an error opens and closes nothing */
	find_flow(packet);
	return packet->flow ? DROP_NONE : DROP_ICMP_UNRELATED;
}

#endif
