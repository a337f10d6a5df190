variable "name" {
  description = "Begins the name of everything that is made."
  type        = string
  default     = "ferry"
}

variable "region" {
  description = "AWS region."
  type        = string
}

variable "vpc" {
  description = "Id of the VPC."
  type        = string
}

variable "public_subnets" {
  description = "Subnets of the load balancer, in two zones at least."
  type        = list(string)
}

variable "private_subnets" {
  description = "Subnets of the instances and the database, in two zones at least, with a way out to the third-party APIs."
  type        = list(string)
}

variable "certificate" {
  description = "ARN of the load balancer's certificate."
  type        = string
}

variable "allowed_cidrs" {
  description = "Who may call the load balancer."
  type        = list(string)
}

variable "internal" {
  description = "Whether the load balancer is reached from inside the VPC only."
  type        = bool
  default     = false
}

variable "image" {
  description = "The image, built from Dockerfile for arm64 and pushed to a registry that the tasks can reach."
  type        = string
}

variable "config" {
  description = "Path of a ferry.yaml, of which pipelines and defaults are taken. Secrets do not stand in it: see secrets."
  type        = string
}

variable "api_key" {
  description = "Key of ferry's own API: openssl rand -base64 24"
  type        = string
  sensitive   = true
}

variable "secrets" {
  description = "Environment variables that are secret, such as FERRY_PIPELINES_ORDERS_SOURCE_AUTH_BEARER."
  type        = map(string)
  default     = {}
  sensitive   = true
}

variable "environment" {
  description = "More environment variables for ferry (docs/configuration.md); they go before what stands here and in config."
  type        = map(string)
  default     = {}
}

variable "least" {
  description = "Fewest instances."
  type        = number
  default     = 2
}

variable "most" {
  description = "Most instances."
  type        = number
  default     = 10
}

variable "cpu" {
  description = "CPU of an instance, as ECS counts: 1024 is one."
  type        = number
  default     = 512
}

variable "memory" {
  description = "Memory of an instance in MiB."
  type        = number
  default     = 1024
}

variable "database_class" {
  description = "Instance class of PostgreSQL. It holds little and writes a few rows for each run."
  type        = string
  default     = "db.t4g.micro"
}

variable "database_multi_az" {
  description = "Whether PostgreSQL has a standby in another zone."
  type        = bool
  default     = true
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}
