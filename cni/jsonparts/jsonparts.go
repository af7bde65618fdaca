// Package jsonparts takes JSON apart, and puts strings together, without looking at Go types.
//
// The standard library's package prepares each type that it might meet before it reads the first byte, which for a process of two milliseconds
// is most of what reading costs. Here is only what is plain: where a function says no, the text may still be JSON, and encoding/json
// has the word, also on what is wrong with it. Where it says yes, encoding/json would give the same.
package jsonparts

import (
	"encoding/json"
	"strings"
)

// Member is one of an object's, with its value as it stands in the text.
type Member struct {
	Name  string
	Value []byte
}

// Members are those of an object, in its order. Values are parts of raw.
func Members(raw []byte) ([]Member, bool) {
	s := scanner{text: raw}
	var out []Member
	ok := s.object(func(name, value []byte) bool {
		text, plain := Text(name)
		for _, m := range out {
			plain = plain && m.Name != text
		}
		out = append(out, Member{text, value})
		return plain && len(out) <= 100 // more would make the loop above long
	})
	if s.blank(); !ok || s.at < len(raw) {
		return nil, false
	}
	return out, true
}

// Elements are those of a list.
func Elements(raw []byte) ([][]byte, bool) {
	s := scanner{text: raw}
	out := [][]byte{}
	ok := s.list(func(value []byte) bool {
		out = append(out, value)
		return true
	})
	if s.blank(); !ok || s.at < len(raw) {
		return nil, false
	}
	return out, true
}

// Text is what a string says, if it is of ASCII without escapes.
func Text(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return "", false
	}
	raw = raw[1 : len(raw)-1]
	for _, c := range raw {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return "", false
		}
	}
	return string(raw), true
}

// Texts are what a list of such strings says.
func Texts(raw []byte) ([]string, bool) {
	values, ok := Elements(raw)
	if !ok {
		return nil, false
	}
	out := make([]string, len(values))
	for i := range values {
		if out[i], ok = Text(values[i]); !ok {
			return nil, false
		}
	}
	return out, true
}

// AppendTexts appends a list of strings.
func AppendTexts(b []byte, texts []string) []byte {
	b = append(b, '[')
	for i, text := range texts {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendText(b, text)
	}
	return append(b, ']')
}

// AppendText appends a string in quotation marks, escaped as encoding/json does.
func AppendText(b []byte, text string) []byte {
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' || strings.IndexByte(`"\<>&`, c) >= 0 {
			quoted, _ := json.Marshal(text) // a string has nothing that cannot be
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), text...), '"')
}

// scanner reads JSON from text[at:] on.
type scanner struct {
	text  []byte
	at    int
	depth int
}

// deepest is less than encoding/json takes.
const deepest = 100

func (s *scanner) blank() {
	for s.at < len(s.text) && strings.IndexByte(" \t\r\n", s.text[s.at]) >= 0 {
		s.at++
	}
}

// next says whether c comes next, and goes past it.
func (s *scanner) next(c byte) bool {
	s.blank()
	if s.at == len(s.text) || s.text[s.at] != c {
		return false
	}
	s.at++
	return true
}

func (s *scanner) object(each func(name, value []byte) bool) bool {
	if !s.next('{') {
		return false
	}
	if s.next('}') {
		return true
	}
	for {
		s.blank()
		name, ok := s.part(s.quoted)
		if !ok || !s.next(':') {
			return false
		}
		s.blank()
		value, ok := s.part(s.value)
		if !ok || !each(name, value) {
			return false
		}
		if !s.next(',') {
			return s.next('}')
		}
	}
}

func (s *scanner) list(each func(value []byte) bool) bool {
	if !s.next('[') {
		return false
	}
	if s.next(']') {
		return true
	}
	for {
		s.blank()
		value, ok := s.part(s.value)
		if !ok || !each(value) {
			return false
		}
		if !s.next(',') {
			return s.next(']')
		}
	}
}

// part returns what read goes past.
func (s *scanner) part(read func() bool) ([]byte, bool) {
	from := s.at
	ok := read()
	return s.text[from:s.at], ok
}

func (s *scanner) value() bool {
	if s.at == len(s.text) || s.depth == deepest {
		return false
	}
	s.depth++
	defer func() { s.depth-- }()
	switch c := s.text[s.at]; c {
	case '{':
		return s.object(func(_, _ []byte) bool { return true })
	case '[':
		return s.list(func([]byte) bool { return true })
	case '"':
		return s.quoted()
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

func (s *scanner) word(w string) bool {
	if !strings.HasPrefix(string(s.text[s.at:min(len(s.text), s.at+len(w))]), w) {
		return false
	}
	s.at += len(w)
	return true
}

// quoted goes past a string. Escapes are for encoding/json.
func (s *scanner) quoted() bool {
	if s.at == len(s.text) || s.text[s.at] != '"' {
		return false
	}
	for s.at++; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; {
		case c == '"':
			s.at++
			return true
		case c < ' ' || c == '\\':
			return false
		}
	}
	return false
}

// number goes past a whole number without an exponent; others are for encoding/json.
func (s *scanner) number() bool {
	if s.at < len(s.text) && s.text[s.at] == '-' {
		s.at++
	}
	from := s.at
	for s.at < len(s.text) && s.text[s.at] >= '0' && s.text[s.at] <= '9' {
		s.at++
	}
	digits := s.at - from
	return digits == 1 || digits > 1 && s.text[from] != '0'
}
