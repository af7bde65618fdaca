package plugin

import (
	"net"
	"os"
	"strconv"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/orlop-io/orlop/cni/jsonparts"
)

// printResult prints a result in the form of a version of the specification.
func printResult(r *current.Result, version string) error {
	if version != "1.0.0" && version != "1.1.0" {
		return types.PrintResult(r, version)
	}
	// The library encodes such a result three times over and decodes it once, which was a twentieth of an ADD.
	_, err := os.Stdout.Write(encodeResult(r, version))
	return err
}

// encodeResult gives what encoding/json says of a result in the form of 1.0 and 1.1, with its keys in order.
func encodeResult(r *current.Result, version string) []byte {
	e := encoder{}
	e.open('{')
	e.text("cniVersion", version)
	if !r.DNS.IsEmpty() {
		e.dns(r.DNS)
	}
	if len(r.Interfaces) > 0 {
		e.key("interfaces").open('[')
		for _, i := range r.Interfaces {
			e.iface(i)
		}
		e.close(']')
	}
	if len(r.IPs) > 0 {
		e.key("ips").open('[')
		for _, ip := range r.IPs {
			e.ip(ip)
		}
		e.close(']')
	}
	if len(r.Routes) > 0 {
		e.key("routes").open('[')
		for _, route := range r.Routes {
			e.route(route)
		}
		e.close(']')
	}
	e.close('}')
	return e.b
}

// encoder writes JSON. What is empty is left out.
type encoder struct {
	b     []byte
	first bool // nothing has been written since the last bracket
	named bool // a key has been, and its value has not
}

// item begins a value.
func (e *encoder) item() {
	if !e.first && !e.named && len(e.b) > 0 {
		e.b = append(e.b, ',')
	}
	e.first, e.named = false, false
}

func (e *encoder) open(bracket byte) {
	e.item()
	e.b = append(e.b, bracket)
	e.first = true
}

func (e *encoder) close(bracket byte) {
	e.b = append(e.b, bracket)
	e.first = false
}

func (e *encoder) key(name string) *encoder {
	e.item()
	e.b = append(jsonparts.AppendText(e.b, name), ':')
	e.named = true
	return e
}

func (e *encoder) text(name, value string) {
	if value == "" {
		return
	}
	e.key(name).item()
	e.b = jsonparts.AppendText(e.b, value)
}

func (e *encoder) texts(name string, values []string) {
	if len(values) == 0 {
		return
	}
	e.key(name).item()
	e.b = jsonparts.AppendTexts(e.b, values)
}

func (e *encoder) number(name string, value int) {
	if value != 0 {
		e.pointed(name, &value)
	}
}

func (e *encoder) pointed(name string, value *int) {
	if value == nil {
		return
	}
	e.key(name).item()
	e.b = strconv.AppendInt(e.b, int64(*value), 10)
}

func (e *encoder) address(name string, ip net.IP) {
	if len(ip) > 0 {
		e.text(name, ip.String())
	}
}

func (e *encoder) dns(d types.DNS) {
	e.key("dns").open('{')
	e.text("domain", d.Domain)
	e.texts("nameservers", d.Nameservers)
	e.texts("options", d.Options)
	e.texts("search", d.Search)
	e.close('}')
}

func (e *encoder) iface(i *current.Interface) {
	e.open('{')
	e.text("mac", i.Mac)
	e.number("mtu", i.Mtu)
	e.key("name").item()
	e.b = jsonparts.AppendText(e.b, i.Name)
	e.text("pciID", i.PciID)
	e.text("sandbox", i.Sandbox)
	e.text("socketPath", i.SocketPath)
	e.close('}')
}

func (e *encoder) ip(ip *current.IPConfig) {
	e.open('{')
	e.text("address", ip.Address.String())
	e.address("gateway", ip.Gateway)
	e.pointed("interface", ip.Interface)
	e.close('}')
}

func (e *encoder) route(r *types.Route) {
	e.open('{')
	e.number("advmss", r.AdvMSS)
	e.text("dst", r.Dst.String())
	e.address("gw", r.GW)
	e.number("mtu", r.MTU)
	e.number("priority", r.Priority)
	e.pointed("scope", r.Scope)
	e.pointed("table", r.Table)
	e.close('}')
}
