package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// attach puts a loaded program where its section says, by the function of cilium/ebpf's link package that an application calls for it.
//
// What that package has no function for (clsact, perf events, routes, sockets that listen) an application attaches by its own means. The
// agent does that, by the program's descriptor, and never asks for it here.
func (s *session) attach(asked *request) answer {
	if s.collection == nil || s.collection.Programs[asked.Program] == nil {
		return failed(fmt.Errorf("program %s is not loaded", asked.Program))
	}
	made, err := s.attached(asked, s.spec.Programs[asked.Program], s.collection.Programs[asked.Program])
	if err != nil {
		return failed(err)
	}
	if s.links == nil {
		s.links = map[string][]io.Closer{}
	}
	s.links[asked.Program] = append(s.links[asked.Program], made)
	if iterator, ok := made.(*link.Iter); ok {
		text, err := read(iterator)
		if err != nil {
			return failed(err)
		}
		return answer{Output: &text}
	}
	return answer{}
}

func (s *session) attached(asked *request, spec *ebpf.ProgramSpec, program *ebpf.Program) (io.Closer, error) {
	prefix, target := split(spec.SectionName)
	if asked.To != "" {
		target = asked.To
	}
	switch program.Type() {
	case ebpf.Kprobe:
		return attachProbe(prefix, target, program)
	case ebpf.TracePoint:
		group, name, found := cut(target, "/")
		if !found {
			return nil, fmt.Errorf("%s is not category/name", target)
		}
		return link.Tracepoint(group, name, program, nil)
	case ebpf.RawTracepoint, ebpf.RawTracepointWritable:
		return link.AttachRawTracepoint(link.RawTracepointOptions{Name: target, Program: program})
	case ebpf.Tracing:
		if strings.HasPrefix(prefix, "iter") {
			return link.AttachIter(link.IterOptions{Program: program})
		}
		return link.AttachTracing(link.TracingOptions{Program: program})
	case ebpf.LSM:
		if asked.Cgroup != "" {
			break
		}
		return link.AttachLSM(link.LSMOptions{Program: program})
	case ebpf.Extension:
		return link.AttachFreplace(nil, "", program)
	case ebpf.SchedCLS: // tcx and netkit: what goes through clsact never comes here
		if prefix == "netkit" {
			return attachNetkit(program, target, asked.Index)
		}
		return attachTCX(program, prefix, target, asked.Index)
	case ebpf.XDP:
		options := link.XDPOptions{Program: program, Interface: asked.Index}
		if asked.Generic {
			options.Flags = link.XDPGenericMode
		}
		return link.AttachXDP(options)
	case ebpf.SkLookup, ebpf.FlowDissector:
		namespace, err := os.Open("/proc/self/ns/net")
		if err != nil {
			return nil, err
		}
		defer namespace.Close()
		return link.AttachNetNs(int(namespace.Fd()), program)
	}
	if asked.Cgroup != "" {
		return link.AttachCgroup(link.CgroupOptions{Path: asked.Cgroup, Attach: spec.AttachType, Program: program})
	}
	return nil, lacks(fmt.Sprintf("a program of type %s", program.Type()))
}

// attachProbe is for kprobes and uprobes, which are one type of program.
func attachProbe(prefix, target string, program *ebpf.Program) (io.Closer, error) {
	switch prefix {
	case "kprobe.multi", "kretprobe.multi", "kprobe.session":
		return attachMulti(program, prefix, target)
	case "ksyscall": // the arch's prefix of a system call's function is put before it
		return link.Kprobe("sys_"+target, program, nil)
	case "kretsyscall":
		return link.Kretprobe("sys_"+target, program, nil)
	case "kprobe":
		return link.Kprobe(target, program, nil)
	case "kretprobe":
		return link.Kretprobe(target, program, nil)
	case "uprobe", "uretprobe", "uprobe.multi", "uretprobe.multi":
		path, function, found := cut(target, ":")
		if !found {
			return nil, fmt.Errorf("%s is not path:function", target)
		}
		executable, err := link.OpenExecutable(path)
		if err != nil {
			return nil, err
		}
		switch prefix {
		case "uprobe":
			return executable.Uprobe(function, program, nil)
		case "uretprobe":
			return executable.Uretprobe(function, program, nil)
		}
		return attachUprobeMulti(executable, function, program, prefix == "uretprobe.multi")
	}
	return nil, lacks(fmt.Sprintf("SEC(\"%s/…\")", prefix))
}

// lacks says that an application would have to attach by its own means.
func lacks(what string) error {
	return fmt.Errorf("cilium/ebpf %s has no function that attaches %s", version, what)
}

const outputLimit = 1 << 20

// read takes in what an iterator prints: it runs when somebody reads it.
func read(iterator *link.Iter) (string, error) {
	file, err := iterator.Open()
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, outputLimit))
	return string(text), err
}

// split is a section's name in two: what kind of program, and where.
func split(section string) (string, string) {
	prefix, target, _ := cut(strings.TrimPrefix(section, "?"), "/")
	return strings.TrimSuffix(strings.TrimSuffix(prefix, ".s"), ".w"), target
}

func cut(text, separator string) (string, string, bool) {
	if at := strings.Index(text, separator); at >= 0 {
		return text[:at], text[at+len(separator):], true
	}
	return text, "", false
}
