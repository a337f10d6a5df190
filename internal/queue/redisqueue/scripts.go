package redisqueue

import (
	"context"
	"crypto/sha1" //nolint:gosec // the name by which Redis knows a script, not a protection
	_ "embed"
	"encoding/hex"
	"fmt"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed lua/append.lua
	appendSource string
	//go:embed lua/publish.lua
	publishSource string
	//go:embed lua/commit.lua
	commitSource string
	//go:embed lua/claim.lua
	claimSource string
	//go:embed lua/settle.lua
	settleSource string
	//go:embed lua/walk.lua
	walkSource string
)

// script is a program that the server runs, known to it by its sum once it has seen it.
type script struct{ source, sum string }

func newScript(source string) script {
	sum := sha1.Sum([]byte(source)) //nolint:gosec // as above
	return script{source, hex.EncodeToString(sum[:])}
}

// scripts are all that a queue has the server run.
type scripts struct{ publish, commit, claim, settle, walk script }

func newScripts() scripts {
	return scripts{
		publish: newScript(appendSource + publishSource),
		commit:  newScript(appendSource + commitSource),
		claim:   newScript(claimSource),
		settle:  newScript(settleSource),
		walk:    newScript(walkSource),
	}
}

// load has a server know the scripts, over a connection that has just been made: it forgets them when it is restarted.
// One that does not allow it gets each script whole when it is needed (Queue.evaluate).
func (s scripts) load(ctx context.Context, c *redis.Conn) error {
	p := c.Pipeline()
	for _, one := range []script{s.publish, s.commit, s.claim, s.settle, s.walk} {
		p.ScriptLoad(ctx, one.source)
	}
	if _, err := p.Exec(ctx); err != nil && !isAnswer(err) {
		return fmt.Errorf("load scripts: %w", err)
	}
	return nil
}
