variable "name" {
  description = "Begins the name of everything that is made; lower-case letters and digits."
  type        = string
  default     = "ferry"
}

variable "subscription" {
  description = "Id of the subscription."
  type        = string
}

variable "location" {
  description = "Azure region."
  type        = string
}

variable "apps_subnet" {
  description = "Id of the subnet of the container apps, /27 or larger, delegated to Microsoft.App/environments, with a way out to the third-party APIs."
  type        = string
}

variable "database_subnet" {
  description = "Id of a subnet that is delegated to PostgreSQL flexible servers."
  type        = string
}

variable "database_dns_zone" {
  description = "Id of the private DNS zone of the database."
  type        = string
}

variable "image" {
  description = "The image, built from Dockerfile and pushed to a registry that the apps can reach."
  type        = string
}

variable "registry" {
  description = "The Azure container registry of the image, which the identity is let in to: its login server and its id. Null: the image is public."
  type        = object({ server = string, id = string })
  default     = null
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

variable "session" {
  description = "What a record's session is: key, pipeline, or none. Order holds within a session; queues are made with or without, once and for all."
  type        = string
  default     = "none"
  validation {
    condition     = contains(["none", "key", "pipeline"], var.session)
    error_message = "none, key or pipeline."
  }
}

variable "servicebus_sku" {
  description = "Standard (records up to 256 KB) or Premium (up to 100 MB, as ferry asks the namespace). Basic has no duplicate detection."
  type        = string
  default     = "Standard"
  validation {
    condition     = contains(["Standard", "Premium"], var.servicebus_sku)
    error_message = "Standard or Premium: Basic has no duplicate detection."
  }
}

variable "database_sku" {
  description = "Size of PostgreSQL. It holds little and writes a few rows for each run."
  type        = string
  default     = "B_Standard_B1ms"
}

variable "external" {
  description = "Whether the API is reached from outside the network."
  type        = bool
  default     = false
}

variable "environment" {
  description = "More environment variables for ferry (docs/configuration.md); they go before what stands here and in config."
  type        = map(string)
  default     = {}
}

variable "least" {
  description = "Fewest instances. Schedules need one at least."
  type        = number
  default     = 2
}

variable "most" {
  description = "Most instances."
  type        = number
  default     = 10
}

variable "cpu" {
  description = "CPU cores of an instance."
  type        = number
  default     = 0.5
}

variable "memory" {
  description = "Memory of an instance."
  type        = string
  default     = "1Gi"
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}
