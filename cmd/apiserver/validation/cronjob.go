package validation

import (
	"regexp"
	"strings"
	"time"
	_ "time/tzdata" // the server's image has no zone database

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxCronJobName leaves room for the eleven characters that are added for the names of the jobs.
const maxCronJobName = validation.DNS1035LabelMaxLength - 11

func cronJob(c *batchv1.CronJob) field.ErrorList {
	errs := cronJobSpec(&c.Spec, nil)
	if len(c.Name) > maxCronJobName {
		errs = append(errs, field.Invalid(field.NewPath("metadata").Child("name"), c.Name, "must be no more than 52 characters"))
	}
	return errs
}

func cronJobUpdate(c, old *batchv1.CronJob) field.ErrorList { return cronJobSpec(&c.Spec, &old.Spec) }

func cronJobSpec(s, old *batchv1.CronJobSpec) field.ErrorList {
	errs := schedule(s, old)
	errs = append(errs, timeZone(s.TimeZone, spec().Child("timeZone"))...)
	errs = append(errs, nonNegativePtr(spec().Child("startingDeadlineSeconds"), s.StartingDeadlineSeconds)...)
	errs = append(errs, oneOf(spec().Child("concurrencyPolicy"), s.ConcurrencyPolicy, batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	at := spec().Child("jobTemplate", "spec")
	errs = append(errs, jobSpec(&s.JobTemplate.Spec, at)...)
	if s.JobTemplate.Spec.Selector != nil {
		errs = append(errs, field.Invalid(at.Child("selector"), s.JobTemplate.Spec.Selector, "`selector` will be auto-generated"))
	}
	if m := s.JobTemplate.Spec.ManualSelector; m != nil && *m {
		errs = append(errs, field.NotSupported(at.Child("manualSelector"), *m, []string{"nil", "false"}))
	}
	errs = append(errs, nonNegativePtr(spec().Child("successfulJobsHistoryLimit"), s.SuccessfulJobsHistoryLimit)...)
	return append(errs, nonNegativePtr(spec().Child("failedJobsHistoryLimit"), s.FailedJobsHistoryLimit)...)
}

// schedule judges the cron expression. A zone within it was allowed once, so what has one keeps it, but not beside timeZone.
func schedule(s, old *batchv1.CronJobSpec) field.ErrorList {
	at := spec().Child("schedule")
	if s.Schedule == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	inSchedule := strings.Contains(s.Schedule, "TZ")
	var errs field.ErrorList
	if err := parseCron(withoutZone(s.Schedule)); err != nil {
		errs = append(errs, field.Invalid(at, s.Schedule, err.Error()))
	}
	switch {
	case inSchedule && (old == nil || !strings.Contains(old.Schedule, "TZ")):
		errs = append(errs, field.Invalid(at, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	case inSchedule && s.TimeZone != nil:
		errs = append(errs, field.Invalid(at, s.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
	}
	return errs
}

// withoutZone cuts TZ=zone from the front of a schedule.
func withoutZone(s string) string {
	if first, rest, ok := strings.Cut(s, " "); ok && (strings.HasPrefix(first, "TZ=") || strings.HasPrefix(first, "CRON_TZ=")) {
		return strings.TrimSpace(rest)
	}
	return s
}

func timeZone(z *string, p *field.Path) field.ErrorList {
	if z == nil {
		return nil
	}
	if *z == "" {
		return field.ErrorList{field.Invalid(p, *z, "timeZone must be nil or non-empty string")}
	}
	part := regexp.MustCompile(`^[A-Za-z._0-9+-]{1,14}$`)
	for name := range strings.SplitSeq(*z, "/") {
		// A zone is looked up as a file: it must not lead out of the folder of zones.
		if !part.MatchString(name) || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "-") {
			return field.ErrorList{field.Invalid(p, *z, "unknown time zone "+*z)}
		}
	}
	if strings.EqualFold(*z, "Local") {
		return field.ErrorList{field.Invalid(p, *z, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")}
	}
	if _, err := time.LoadLocation(*z); err != nil {
		return field.ErrorList{field.Invalid(p, *z, err.Error())}
	}
	return nil
}
