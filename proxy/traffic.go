package proxy

// Traffic is what became of the clients of a service's port on this node, since it is translated here.
type Traffic struct {
	Connections uint64 `json:"connections"` // led to an endpoint: of UDP, by a socket that connects or a flow that begins
	Failures    uint64 `json:"failures"`    // led to none: refused or dropped
	PacketsIn   uint64 `json:"packetsIn"`   // translated, to endpoints
	BytesIn     uint64 `json:"bytesIn"`
	PacketsOut  uint64 `json:"packetsOut"` // translated, from endpoints
	BytesOut    uint64 `json:"bytesOut"`
}

// Plus is the sum of two.
func (t Traffic) Plus(o Traffic) Traffic {
	return Traffic{t.Connections + o.Connections, t.Failures + o.Failures, t.PacketsIn + o.PacketsIn, t.BytesIn + o.BytesIn, t.PacketsOut + o.PacketsOut, t.BytesOut + o.BytesOut}
}

// Minus is what came after o; what has begun anew since counts whole.
func (t Traffic) Minus(o Traffic) Traffic {
	since := func(now, before uint64) uint64 {
		if now < before {
			return now
		}
		return now - before
	}
	return Traffic{
		since(t.Connections, o.Connections), since(t.Failures, o.Failures), since(t.PacketsIn, o.PacketsIn), since(t.BytesIn, o.BytesIn),
		since(t.PacketsOut, o.PacketsOut), since(t.BytesOut, o.BytesOut),
	}
}
