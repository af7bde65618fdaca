package admission

import (
	"fmt"
	"io"
	"time"

	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota/apis/resourcequota/validation"
	"k8s.io/apiserver/pkg/quota/v1/generic"

	"github.com/orlop-io/orlop/cmd/quota"
)

// quotaWorkers is how many namespaces are charged at once.
const quotaWorkers = 5

// resourceQuota is the library's plugin, told what objects use. It charges a write to the status of the namespace's quotas
// before the write happens, so that two at once cannot share what is left.
type resourceQuota struct {
	*resourcequota.QuotaAdmission
}

func newQuota(config io.Reader) (adm.Interface, error) {
	c, err := resourcequota.LoadConfiguration(config)
	if err != nil {
		return nil, fmt.Errorf("read configuration of ResourceQuota: %w", err)
	}
	if c != nil {
		if errs := validation.ValidateConfiguration(c); len(errs) != 0 {
			return nil, errs.ToAggregate()
		}
	}
	plugin, err := resourcequota.NewResourceQuota(c, quotaWorkers)
	if err != nil {
		return nil, err
	}
	return resourceQuota{plugin}, nil
}

// SetDrainedNotification also hands over how to count: the library wants that after the channel.
func (q resourceQuota) SetDrainedNotification(drained <-chan struct{}) {
	q.QuotaAdmission.SetDrainedNotification(drained)
	q.SetQuotaConfiguration(generic.NewConfiguration(quota.Evaluators(nil, time.Now), quota.Ignored()))
}
