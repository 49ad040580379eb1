// SPDX-License-Identifier: Apache-2.0

package policy

// answerOrJudge is step 7: a packet is an answer only by evidence of what came
// in, never by its looks; else step 8 judges it.
func (e *evaluation) answerOrJudge() Verdict {
	p := e.p
	switch {
	case p.Proto == protoTCP && e.sender == TCP:
		if e.tcpSocketAnswers() {
			return answer()
		}
	case p.Proto == protoTCP && (e.sender == Kernel || e.sender == NoSocket):
		if e.kernelTCPAnswers() {
			return answer()
		}
	case p.IsICMP() && e.sender == Kernel:
		if e.kernelICMPAnswers() {
			return answer()
		}
	case p.Proto != protoTCP && !p.IsICMP():
		return e.datagram()
	}
	return e.judge()
}

// tcpSocketAnswers is step 7a. A socket that was accepted answers in the one
// flow it was accepted for. The container can make another use of it (connect with
// AF_UNSPEC and connect again, TCP_REPAIR): from its first packet elsewhere, or
// its first SYN, it is a socket like any that calls out, for good.
func (e *evaluation) tcpSocketAnswers() bool {
	p, past, flow := e.p, e.past, e.p.outbound()
	s, known := past.sockets[p.Socket]

	if !p.isBareSYN() {
		if known && s == (socket{in, flow}) {
			return true
		}
		if !known && past.flow(flow, e.now) == in {
			set(&past.sockets, p.Socket, socket{in, flow})
			return true
		}
	}
	set(&past.sockets, p.Socket, socket{dir: out})
	return false
}

// kernelTCPAnswers is step 7b: what the kernel sends before there is a full
// socket and after, which carries no data. Data, a fragment of which more may
// follow, or a SYN are not the kernel's but forwarded.
func (e *evaluation) kernelTCPAnswers() bool {
	p := e.p
	if p.TCPPayload > 0 || p.Fragment != nil || p.isBareSYN() {
		return false
	}
	if e.past.flow(p.outbound(), e.now) == in {
		return true
	}
	// A RST or the last ACK to what came in just now. Not a SYN-ACK, which
	// answers a SYN, and that would be evidence.
	isSYNACK := p.TCPFlags&(tcpSYN|tcpACK) == tcpSYN|tcpACK
	return !isSYNACK && e.past.cameIn(p.outbound(), e.now)
}

// kernelICMPAnswers is step 7c. The kernel's echo replies and errors carry what
// a process without any capability chose, to an address it chose (a ping socket
// or a datagram to oneself with a forged source): they are answers only to a
// packet that came in from there.
func (e *evaluation) kernelICMPAnswers() bool {
	p := e.p
	switch {
	case p.isEchoReply():
		return e.past.flow(p.outbound(), e.now) == in
	case p.isICMPError():
		return p.Quoted != nil && p.Quoted.Peer == p.Dst &&
			(e.past.flow(*p.Quoted, e.now) == in || e.past.cameIn(*p.Quoted, e.now))
	}
	return false
}

// datagram is step 7d, for protocols that have no connections the kernel could
// be asked about: who sent first decides.
func (e *evaluation) datagram() Verdict {
	flow := e.p.outbound()
	dir := e.past.flow(flow, e.now)
	// Raw sockets and what is forwarded can write any tuple.
	if dir == in && e.sender != Raw && e.sender != NoSocket {
		e.past.record(flow, in, e.now)
		return answer()
	}
	v := e.judge()
	// The container's own flow never becomes an answer, though the peer's
	// replies come in: not even when the policy denies it later.
	if dir == out || dir == 0 && v.Action != Drop {
		e.past.record(flow, out, e.now)
	}
	return v
}
