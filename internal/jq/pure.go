package jq

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/itchyny/gojq"
)

// refused says of each function that ferry does not run why, and what to do.
func refused(name string) string {
	switch name {
	case "now":
		return "it changes with time, and a record pulled again must give the same result; take a time out of the record"
	case "localtime", "strflocaltime":
		return "it depends on the machine's time zone, and a record must give the same result everywhere; use gmtime or strftime"
	case "input", "inputs", "input_filename", "input_line_number":
		return "a program sees one record at a time; use . for it"
	case "env", "$ENV":
		return "a program has no environment, so that no secret can leave with a record"
	case "debug", "stderr":
		return "a program can only give results; look at them with ferry preview"
	case "halt", "halt_error":
		return "a record cannot stop the run; use empty to leave it out or error(\"why\") to make it a dead letter"
	case "builtins", "modulemeta", "get_search_list":
		return "it tells of the engine, not of the record"
	}
	if strings.HasPrefix(name, hidden) {
		return "names that begin so are ferry's own"
	}
	return ""
}

// checkPure refuses a program whose results could depend on anything but its input.
func checkPure(src string, q *gojq.Query) error {
	if len(q.Imports) > 0 {
		return &CompileError{src: src, msg: "import and include are refused: a program stands on its own; write its functions into it with def"}
	}
	var found *CompileError
	visitFuncs(reflect.ValueOf(q), func(f *gojq.Func) {
		if why := refused(f.Name); why != "" && found == nil {
			found = &CompileError{src: src, offset: max(0, indexWord(src, f.Name)), msg: fmt.Sprintf("%s is refused: %s", f.Name, why)}
		}
		if f.Name == "strptime" && len(f.Args) == 1 && found == nil {
			if t := f.Args[0].Term; t != nil && t.Type == gojq.TermTypeString && t.Str.Queries == nil && namesZone(t.Str.Str) {
				found = &CompileError{src: src, offset: max(0, indexWord(src, f.Name)), msg: zoneRefused}
			}
		}
	})
	if found != nil {
		return found
	}
	return nil
}

// visitFuncs calls visit for every call of a function or variable in the syntax tree, whatever kind of node it hangs on.
func visitFuncs(v reflect.Value, visit func(*gojq.Func)) {
	visitNodes(v, func(node any) {
		if f, ok := node.(*gojq.Func); ok {
			visit(f)
		}
	})
}

// visitNodes calls visit for every node that is pointed to in the syntax tree.
func visitNodes(v reflect.Value, visit func(node any)) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		visit(v.Interface())
		visitNodes(v.Elem(), visit)
	case reflect.Slice:
		for i := range v.Len() {
			visitNodes(v.Index(i), visit)
		}
	case reflect.Struct:
		for _, field := range v.Fields() {
			visitNodes(field, visit)
		}
	}
}
