;; A command component whose body is put in place of BODY: it leaves 0 for ok, 1 for an error; $exit calls wasi:cli/exit.
(component
  (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
  (core module $m
    (import "host" "exit" (func $exit (param i32)))
    (func (export "run") (result i32) BODY))
  (core func $exit (canon lower (func $exit "exit")))
  (core instance $i (instantiate $m (with "host" (instance (export "exit" (func $exit))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
