package jq

import (
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/itchyny/gojq"
)

// hidden begins the names of functions that are there for the prelude alone.
const hidden = "_ferry_"

// prelude takes the place of gojq's functions that one call, with a path or format out of a record, would make do what no
// program may: each checks what it is given and calls gojq's own. It stands before a program that calls one of them.
const prelude = `
def _ferry_path(p): p as $p | (reduce range($p | _ferry_cost) as $_ (null; .)) as $_ | $p;
def _ferry_getpath(p): getpath(p);
def getpath(p): _ferry_getpath(_ferry_path(p));
def _ferry_setpath(p; v): setpath(p; v);
def setpath(p; v): _ferry_setpath(_ferry_path(p); v);
def _ferry_delpaths(p): delpaths(p);
def delpaths(p): _ferry_delpaths(p | _ferry_paths);
def _ferry_fromstream(f): fromstream(f);
def fromstream(f): _ferry_fromstream(f | _ferry_path(.[0]? // null) as $_ | .);
def _ferry_strptime(f): strptime(f);
def strptime(f): _ferry_strptime(f | _ferry_format);
.`

var preludeDefs = sync.OnceValues(func() ([]*gojq.FuncDef, error) {
	q, err := gojq.Parse(prelude)
	if err != nil {
		return nil, err
	}
	return q.FuncDefs, nil
})

// compileBounded compiles a query, with the prelude when it calls a function of it.
func compileBounded(q *gojq.Query, variables []string) (*gojq.Code, error) {
	options := []gojq.CompilerOption{gojq.WithVariables(variables)}
	needed := false
	visitFuncs(reflect.ValueOf(q), func(f *gojq.Func) {
		switch f.Name {
		case "getpath", "setpath", "delpaths", "fromstream", "strptime":
			needed = true
		}
	})
	if needed {
		defs, err := preludeDefs()
		if err != nil {
			return nil, err
		}
		with := *q
		with.FuncDefs = slices.Concat(defs, q.FuncDefs)
		q = &with
		options = append(options,
			gojq.WithFunction(hidden+"cost", 0, 0, pathCost),
			gojq.WithFunction(hidden+"paths", 0, 0, checkPaths),
			gojq.WithFunction(hidden+"format", 0, 0, checkFormat))
	}
	return gojq.Compile(q, options...)
}

const zoneRefused = "%Z in a format of strptime depends on the machine's time zone; write the zone as it stands there, such as GMT, or use %z for an offset"

// namesZone says whether a format reads the name of a time zone, whose offset only the machine knows.
func namesZone(format string) bool {
	for {
		_, rest, found := strings.Cut(format, "%")
		if !found || rest == "" {
			return false
		}
		if rest[0] == 'Z' || rest[0] == '+' { // %+ has %Z in it
			return true
		}
		format = rest[1:]
	}
}

// checkFormat refuses such a format that comes out of a record.
func checkFormat(format any, _ []any) any {
	if s, ok := format.(string); ok && namesZone(s) {
		return &RunError{Msg: zoneRefused}
	}
	return format
}
