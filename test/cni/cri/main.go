// SPDX-License-Identifier: Apache-2.0

// Command cri makes the few calls of the Kubernetes CRI that a test needs: what kubelet does to a pod.
//
//	cri SOCKET ready                                            exit status 0: runtime and network are
//	cri SOCKET runp [HANDLER:]NAME KEY=VALUE...                 a pod with annotations; prints its ID
//	cri SOCKET run POD NAME IMAGE KEY=VALUE... -- COMMAND...    a container in it; prints its ID
//	cri SOCKET exec CONTAINER COMMAND...                        exits with the command's status
//	cri SOCKET stopp|rmp POD
//
// It is a module of its own: nothing else needs gRPC.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: cri SOCKET ready|runp|run|exec|stopp|rmp ...")
		os.Exit(2)
	}
	if err := call(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "cri:", err)
		os.Exit(1)
	}
}

func call(socket, what string, args []string) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	runtime := v1.NewRuntimeServiceClient(conn)
	at := func(i int) string { // what is missing is empty, and containerd says so
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch what {
	case "ready":
		r, err := runtime.Status(ctx, &v1.StatusRequest{})
		if err != nil {
			return err
		}
		for _, c := range r.Status.Conditions {
			if !c.Status {
				return fmt.Errorf("%s: %s", c.Type, c.Message)
			}
		}
	case "runp":
		handler, name, ok := strings.Cut(at(0), ":")
		if !ok {
			handler, name = "", at(0)
		}
		annotations, _ := pairs(args)
		r, err := runtime.RunPodSandbox(ctx, &v1.RunPodSandboxRequest{Config: pod(name, annotations), RuntimeHandler: handler})
		if err != nil {
			return err
		}
		fmt.Println(r.PodSandboxId)
	case "run":
		annotations, command := pairs(args)
		of, err := runtime.PodSandboxStatus(ctx, &v1.PodSandboxStatusRequest{PodSandboxId: at(0)})
		if err != nil {
			return err
		}
		r, err := runtime.CreateContainer(ctx, &v1.CreateContainerRequest{
			PodSandboxId: at(0), SandboxConfig: pod(of.Status.Metadata.Name, of.Status.Annotations),
			Config: &v1.ContainerConfig{
				Metadata: &v1.ContainerMetadata{Name: at(1)}, Image: &v1.ImageSpec{Image: at(2)},
				Command: command, Annotations: annotations, LogPath: at(1) + ".log",
				Linux: &v1.LinuxContainerConfig{SecurityContext: &v1.LinuxContainerSecurityContext{
					NamespaceOptions: namespaces,
					// kubelet's defaults; without them containerd hides nothing.
					MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
					ReadonlyPaths: []string{"/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
				}},
			},
		})
		if err != nil {
			return err
		}
		if _, err := runtime.StartContainer(ctx, &v1.StartContainerRequest{ContainerId: r.ContainerId}); err != nil {
			return err
		}
		fmt.Println(r.ContainerId)
	case "exec":
		r, err := runtime.ExecSync(ctx, &v1.ExecSyncRequest{ContainerId: at(0), Cmd: args[1:], Timeout: 20})
		if err != nil {
			return err
		}
		os.Stdout.Write(r.Stdout)
		os.Stderr.Write(r.Stderr)
		os.Exit(int(r.ExitCode))
	case "stopp":
		_, err := runtime.StopPodSandbox(ctx, &v1.StopPodSandboxRequest{PodSandboxId: at(0)})
		return err
	case "rmp":
		_, err := runtime.RemovePodSandbox(ctx, &v1.RemovePodSandboxRequest{PodSandboxId: at(0)})
		return err
	default:
		return errors.New("no such call: " + what)
	}
	return nil
}

var namespaces = &v1.NamespaceOption{Network: v1.NamespaceMode_POD, Pid: v1.NamespaceMode_CONTAINER}

// pod is what kubelet says of a pod, in short.
func pod(name string, annotations map[string]string) *v1.PodSandboxConfig {
	return &v1.PodSandboxConfig{
		Metadata: &v1.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name}, Hostname: name,
		LogDirectory: "/run/podlogs/" + name, Annotations: annotations,
		Linux: &v1.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/pod-" + name,
			SecurityContext: &v1.LinuxSandboxSecurityContext{
				NamespaceOptions: namespaces,
				Seccomp:          &v1.SecurityProfile{ProfileType: v1.SecurityProfile_Unconfined},
			},
		},
	}
}

// pairs reads KEY=VALUE up to "--", and returns what follows that.
func pairs(args []string) (all map[string]string, rest []string) {
	all = map[string]string{}
	for i, a := range args {
		if a == "--" {
			return all, args[i+1:]
		}
		if key, value, ok := strings.Cut(a, "="); ok {
			all[key] = value
		}
	}
	return all, nil
}
