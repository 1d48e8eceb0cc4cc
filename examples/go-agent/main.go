// Command agent says who opens files, one JSON object a line. It brings its own loader, cilium/ebpf, and falls back by itself: from a ring
// buffer to a perf buffer, and to one without cgroup ids. Where none of them loads, it says what the kernel lacks and ends with 3.
package main

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/perf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
)

var (
	//go:embed build/ringbuf.bpf.o
	ringbufObject []byte
	//go:embed build/perf.bpf.o
	perfObject []byte
	//go:embed build/plain.bpf.o
	plainObject []byte
)

type event struct {
	CgroupID       uint64
	Pid, Tgid, UID uint32
	Comm           [16]byte
	_              uint32
}

type way struct {
	program string
	needs   string // the newest thing that it asks of the kernel
	object  []byte
}

var ways = []way{
	{"open_ringbuf", "ringbuf", ringbufObject},
	{"open_perf", "cgroup_id_helper", perfObject},
	{"open_plain", "perf_buffer", plainObject},
}

const refusal = 3 // exit status

func main() {
	noFallback := flag.Bool("no-fallback", false, "a ring buffer or nothing")
	flag.Parse()
	if release := kernelRelease(); older(release, 4, 14) {
		fmt.Fprintf(os.Stderr, "agent: needs kernel 4.14 or newer, this is %s\n", release)
		os.Exit(refusal)
	}
	if *noFallback {
		ways = ways[:1]
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
	}
	for _, way := range ways {
		collection, attached, err := way.load()
		if err != nil {
			fmt.Fprintf(os.Stderr, "agent: %s cannot run, it needs %s: %v\n", way.program, way.needs, err)
			continue
		}
		err = serve(way.program, collection.Maps["events"])
		attached.Close()
		collection.Close()
		if err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(refusal)
}

func kernelRelease() string {
	var uts syscall.Utsname
	if err := syscall.Uname(&uts); err != nil {
		return ""
	}
	var release []byte
	for _, c := range uts.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	return string(release)
}

func older(release string, major, minor int) bool {
	var a, b int
	_, err := fmt.Sscanf(release, "%d.%d", &a, &b)
	return err == nil && (a < major || a == major && b < minor)
}

func (w way) load() (*ebpf.Collection, link.Link, error) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(w.object))
	if err != nil {
		return nil, nil, err
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, nil, err
	}
	attached, err := link.Tracepoint("syscalls", "sys_enter_openat", collection.Programs[w.program], nil)
	if err != nil {
		collection.Close()
		return nil, nil, err
	}
	return collection, attached, nil
}

// serve prints events until SIGTERM or SIGINT.
func serve(program string, events *ebpf.Map) error {
	next, stop, err := open(events)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() { <-signals; stop() }()
	fmt.Fprintln(os.Stderr, "agent: ready,", program)
	out := json.NewEncoder(os.Stdout)
	for {
		raw, err := next()
		if errors.Is(err, ringbuf.ErrClosed) || errors.Is(err, perf.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(raw) == 0 { // the perf buffer's account of lost events
			continue
		}
		var e event
		if err := binary.Read(bytes.NewReader(raw), binary.LittleEndian, &e); err != nil {
			return err
		}
		name, _, _ := bytes.Cut(e.Comm[:], []byte{0})
		process := map[string]any{"pid": e.Pid, "tgid": e.Tgid, "uid": e.UID, "comm": string(name)}
		line := map[string]any{"event": "open", "process": process}
		if e.CgroupID != 0 {
			line["cgroup"] = e.CgroupID
		}
		if err := out.Encode(line); err != nil {
			return err
		}
	}
}

// open gives the buffer's next sample, and an end to waiting for it.
func open(events *ebpf.Map) (next func() ([]byte, error), stop func() error, err error) {
	if events.Type() == ebpf.RingBuf {
		reader, err := ringbuf.NewReader(events)
		if err != nil {
			return nil, nil, err
		}
		return func() ([]byte, error) { record, err := reader.Read(); return record.RawSample, err }, reader.Close, nil
	}
	reader, err := perf.NewReader(events, 64*os.Getpagesize())
	if err != nil {
		return nil, nil, err
	}
	return func() ([]byte, error) { record, err := reader.Read(); return record.RawSample, err }, reader.Close, nil
}
