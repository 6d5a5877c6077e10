;; A command component whose body is put in place of BODY: $tcp and $udp make a socket of a family (0 is IPv4), and store
;; a result at an address, whose first byte is 0 for ok. The body leaves 0 for ok, 1 for an error.
(component
  (import "wasi:sockets/network@0.2.0" (instance $network
    (type $c (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout"
      "concurrency-conflict" "not-in-progress" "would-block" "invalid-state" "new-socket-limit" "address-not-bindable"
      "address-in-use" "remote-unreachable" "connection-refused" "connection-reset" "connection-aborted"
      "datagram-too-large" "name-unresolvable" "temporary-resolver-failure" "permanent-resolver-failure"))
    (export "error-code" (type (eq $c)))
    (type $f (enum "ipv4" "ipv6")) (export "ip-address-family" (type (eq $f)))))
  (alias export $network "error-code" (type $code))
  (alias export $network "ip-address-family" (type $family))
  (import "wasi:sockets/tcp@0.2.0" (instance $stream (export "tcp-socket" (type (sub resource)))))
  (import "wasi:sockets/udp@0.2.0" (instance $datagram (export "udp-socket" (type (sub resource)))))
  (alias export $stream "tcp-socket" (type $tcp-socket))
  (alias export $datagram "udp-socket" (type $udp-socket))
  (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $tcp
    (alias outer 1 $code (type $c)) (export "error-code" (type $c2 (eq $c)))
    (alias outer 1 $family (type $f)) (export "ip-address-family" (type $f2 (eq $f)))
    (alias outer 1 $tcp-socket (type $s)) (export "tcp-socket" (type $s2 (eq $s)))
    (export "create-tcp-socket" (func (param "address-family" $f2) (result (result (own $s2) (error $c2)))))))
  (import "wasi:sockets/udp-create-socket@0.2.0" (instance $udp
    (alias outer 1 $code (type $c)) (export "error-code" (type $c2 (eq $c)))
    (alias outer 1 $family (type $f)) (export "ip-address-family" (type $f2 (eq $f)))
    (alias outer 1 $udp-socket (type $s)) (export "udp-socket" (type $s2 (eq $s)))
    (export "create-udp-socket" (func (param "address-family" $f2) (result (result (own $s2) (error $c2)))))))
  (core module $memory (memory (export "memory") 1))
  (core instance $mem (instantiate $memory))
  (core func $tcp (canon lower (func $tcp "create-tcp-socket") (memory (core memory $mem "memory"))))
  (core func $udp (canon lower (func $udp "create-udp-socket") (memory (core memory $mem "memory"))))
  (core module $m
    (import "host" "memory" (memory 1))
    (import "host" "tcp" (func $tcp (param i32 i32)))
    (import "host" "udp" (func $udp (param i32 i32)))
    (func (export "run") (result i32) BODY))
  (core instance $i (instantiate $m (with "host" (instance
    (export "memory" (memory $mem "memory")) (export "tcp" (func $tcp)) (export "udp" (func $udp))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
