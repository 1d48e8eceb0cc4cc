// The cilium loader: loads and attaches an object with cilium/ebpf, as the agent in the guest tells it to.
//
// It is started by kmatrix/guest/cilium.py with the number of one end of a socket, and serves one object. A request and an answer are JSON
// after four bytes of length. The descriptors of programs and maps follow the answer to "load". When the other end is closed, everything
// is detached and the process ends.
//
// Only what cilium/ebpf has had since 0.9.1 is used by name. What came later is in files with a build tag, which the builder gives where
// the version at hand has it (tcx.go), or is looked up by reflection (compat.go). So one source fits every version.
package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
)

// version is that of cilium/ebpf; the builder sets it (kmatrix/vm/loaders/build.py).
var version = "unknown"

// perMessage is how many descriptors go into one message; the kernel takes 253 (SCM_MAX_FD).
const perMessage = 64

type request struct {
	Op       string
	Object   string // a file
	Programs []string
	Settings settings
	Program  string
	To       string
	Index    int    // of a network interface
	Generic  bool   // XDP by the kernel's generic code
	Cgroup   string // a folder of cgroup v2
}

type answer struct {
	Version  string                 `json:"version,omitempty"`
	Programs map[string]programInfo `json:"programs,omitempty"`
	Maps     map[string]mapInfo     `json:"maps,omitempty"`
	FDs      []owner                `json:"fds,omitempty"`
	Output   *string                `json:"output,omitempty"`
	Error    *failure               `json:"error,omitempty"`
	fds      []int
}

type owner struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "--version" {
		fmt.Println(version)
		return
	}
	conn, err := agent()
	if err != nil {
		fmt.Fprintln(os.Stderr, "this program is started by kmatrix' agent, with the descriptor of a socket:", err)
		os.Exit(2)
	}
	session := &session{}
	for {
		asked, err := receive(conn)
		if err != nil {
			session.close()
			return
		}
		send(conn.(*net.UnixConn), session.do(asked))
	}
}

func agent() (net.Conn, error) {
	if len(os.Args) != 2 {
		return nil, fmt.Errorf("%d arguments", len(os.Args)-1)
	}
	number, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(number), "agent")
	defer file.Close() // FileConn has a copy
	return net.FileConn(file)
}

func receive(conn net.Conn) (*request, error) {
	var size uint32
	if err := binary.Read(conn, binary.LittleEndian, &size); err != nil {
		return nil, err
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(conn, text); err != nil {
		return nil, err
	}
	asked := &request{}
	return asked, json.Unmarshal(text, asked)
}

func send(conn *net.UnixConn, told answer) {
	text, err := json.Marshal(told)
	if err != nil {
		panic(err)
	}
	head := make([]byte, 4)
	binary.LittleEndian.PutUint32(head, uint32(len(text)))
	if _, err := conn.Write(append(head, text...)); err != nil {
		return
	}
	for rest := told.fds; len(rest) > 0; {
		count := len(rest)
		if count > perMessage {
			count = perMessage
		}
		if _, _, err := conn.WriteMsgUnix([]byte{0}, syscall.UnixRights(rest[:count]...), nil); err != nil {
			return
		}
		rest = rest[count:]
	}
}
