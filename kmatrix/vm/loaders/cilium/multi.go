//go:build kprobe_multi

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"reflect"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// attachMulti needs link.KprobeMulti, which cilium/ebpf has since 0.10. It takes names: an application finds those of a pattern itself.
func attachMulti(program *ebpf.Program, prefix, pattern string) (io.Closer, error) {
	symbols, err := functions(pattern)
	if err != nil {
		return nil, err
	}
	options := link.KprobeMultiOptions{Symbols: symbols}
	if prefix == "kprobe.session" {
		session := reflect.ValueOf(&options).Elem().FieldByName("Session") // since 0.18
		if !session.IsValid() {
			return nil, lacks(`SEC("kprobe.session/…")`)
		}
		session.SetBool(true)
	}
	if prefix == "kretprobe.multi" {
		return link.KretprobeMulti(program, options)
	}
	return link.KprobeMulti(program, options)
}

// functions are those of the kernel that a pattern names and that may be traced.
func functions(pattern string) ([]string, error) {
	if !strings.ContainsAny(pattern, "*?") {
		return []string{pattern}, nil
	}
	for _, folder := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		file, err := os.Open(folder + "/available_filter_functions")
		if err != nil {
			continue
		}
		defer file.Close()
		var found []string
		for lines := bufio.NewScanner(file); lines.Scan(); {
			name, _, inModule := cut(lines.Text(), " ")
			if fits, _ := path.Match(pattern, name); fits && !inModule {
				found = append(found, name)
			}
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("no function of this kernel fits %s", pattern)
		}
		return found, nil
	}
	return nil, fmt.Errorf("this kernel does not list the functions that fit %s", pattern)
}
