// SPDX-License-Identifier: Apache-2.0

package policy

import "strings"

// maxDomain is the longest name in bytes, without a final dot (RFC 1035, 3.1:
// 255 on the wire).
const maxDomain = 253

// endsInNumber reports whether a name's last label is all digits: then it is
// an address, a good or a bad one. No top-level domain is a number, and a
// resolver that took 10.0.0.256 for a name would be a surprise.
func endsInNumber(name string) bool {
	name = strings.TrimSuffix(name, ".")
	last := name[strings.LastIndexByte(name, '.')+1:]
	return last != "" && strings.Trim(last, "0123456789") == ""
}

// parseDomain reads a name or *.name, which does not end in a number, and returns it in lower case without a
// final dot.
func parseDomain(text string) (string, *mistake) {
	// Before lower case: U+212A, the Kelvin sign, has an ASCII k as its own.
	if strings.ContainsFunc(text, func(r rune) bool { return r >= 0x80 }) {
		return "", mistakef("write it in its xn-- form", "name that is not ASCII")
	}
	name := strings.ToLower(strings.TrimSuffix(text, "."))
	if len(name) > maxDomain {
		return "", mistakef("", "name of %d bytes, over %d", len(name), maxDomain)
	}
	labels := strings.TrimPrefix(name, "*.")
	for label := range strings.SplitSeq(labels, ".") {
		if wrong := checkLabel(label); wrong != nil {
			return "", wrong
		}
	}
	return name, nil
}

// checkLabel admits [a-z0-9_-] only. A '.' or NUL in a label would imitate a
// border between labels where the kernel compares names.
func checkLabel(label string) *mistake {
	switch {
	case label == "":
		return mistakef("", "empty label in a name")
	case strings.Contains(label, "*"):
		return mistakef("write *.example.com for any depth below example.com", "* is not a label of its own in front")
	case len(label) > 63:
		return mistakef("", "label of %d bytes, over 63", len(label))
	case label[0] == '-' || label[len(label)-1] == '-':
		return mistakef("", "label %q begins or ends with -", label)
	}
	for _, r := range label {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '_', r == '-':
		default:
			return mistakef("", "%q in a name", string(r))
		}
	}
	return nil
}
