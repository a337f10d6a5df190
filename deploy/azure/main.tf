# ferry on Azure: Container Apps in front, Service Bus as the queue, a managed identity instead of keys, and PostgreSQL for
# what instances share: leases, run history, and the cursors that Service Bus cannot keep. Not applied against Azure: see
# README.md.

terraform {
  required_version = ">= 1.6"
  required_providers {
    azurerm = { source = "hashicorp/azurerm", version = "~> 4.55" }
    random  = { source = "hashicorp/random", version = "~> 3.7" }
  }
}

provider "azurerm" {
  features {}
  subscription_id = var.subscription
}

locals {
  tags = merge({ application = var.name }, var.tags)
  # The container has no file of its own: the pipelines reach it as variables, which hold the same mappings as JSON.
  config   = yamldecode(file(var.config))
  mappings = { for key in ["defaults", "pipelines"] : "FERRY_${upper(key)}" => jsonencode(local.config[key]) if can(local.config[key]) }

  # One queue a topic, and one for its dead letters.
  topics = toset([for name, pipeline in local.config.pipelines : try(pipeline.topic, name)])
  dead   = toset([for topic in local.topics : "${topic}.dead"])

  environment = merge({
    FERRY_ENV        = "prod"
    FERRY_LOG_FORMAT = "json"
    # The identity may send and receive, not look at how a queue is set: the window is said here.
    FERRY_QUEUE              = "azservicebus://${azurerm_servicebus_namespace.ferry.name}.servicebus.windows.net?duplicate_detection=10m&session=${var.session}"
    FERRY_SERVER_DRAIN_DELAY = "10s"
    AZURE_CLIENT_ID          = azurerm_user_assigned_identity.ferry.client_id
  }, local.mappings, var.environment)

  secrets = merge(var.secrets, { FERRY_API_KEY = var.api_key, FERRY_STATE = local.database_url })
  # Their names are no secret, and Terraform has to know them.
  secret_names = toset(concat(["FERRY_API_KEY", "FERRY_STATE"], nonsensitive(keys(var.secrets))))

  database_url = format("postgres://%s:%s@%s/%s?sslmode=require",
    azurerm_postgresql_flexible_server.state.administrator_login, random_password.database.result,
  azurerm_postgresql_flexible_server.state.fqdn, azurerm_postgresql_flexible_server_database.state.name)
}

resource "azurerm_resource_group" "ferry" {
  name     = var.name
  location = var.location
  tags     = local.tags
}

# The queue. Service Bus forgets a record's id after the window; a retry that comes later than half of it says so.

resource "azurerm_servicebus_namespace" "ferry" {
  name                = "${var.name}-${random_string.suffix.result}"
  resource_group_name = azurerm_resource_group.ferry.name
  location            = azurerm_resource_group.ferry.location
  sku                 = var.servicebus_sku
  capacity            = var.servicebus_sku == "Premium" ? 1 : 0
  local_auth_enabled  = false # the identity alone
  minimum_tls_version = "1.2"
  tags                = local.tags

  premium_messaging_partitions = var.servicebus_sku == "Premium" ? 1 : 0
}

resource "random_string" "suffix" {
  length  = 6
  upper   = false
  special = false
}

resource "azurerm_servicebus_queue" "topic" {
  for_each                                = setunion(local.topics, local.dead)
  name                                    = each.key
  namespace_id                            = azurerm_servicebus_namespace.ferry.id
  requires_duplicate_detection            = true
  duplicate_detection_history_time_window = "PT10M"
  requires_session                        = var.session != "none" && contains(local.topics, each.key)
  max_size_in_megabytes                   = 5120
  lock_duration                           = "PT1M"
  # What consumers give back so often goes to Service Bus's own dead-letter queue. People look at ferry's dead letters more
  # often than that; 2000 is the most there is.
  max_delivery_count = contains(local.dead, each.key) ? 2000 : 10
}

# Who ferry is.

resource "azurerm_user_assigned_identity" "ferry" {
  name                = var.name
  resource_group_name = azurerm_resource_group.ferry.name
  location            = azurerm_resource_group.ferry.location
  tags                = local.tags
}

resource "azurerm_role_assignment" "queues" {
  for_each             = toset(["Azure Service Bus Data Sender", "Azure Service Bus Data Receiver"])
  scope                = azurerm_servicebus_namespace.ferry.id
  role_definition_name = each.value
  principal_id         = azurerm_user_assigned_identity.ferry.principal_id
}

resource "azurerm_role_assignment" "registry" {
  count                = var.registry == null ? 0 : 1
  scope                = var.registry.id
  role_definition_name = "AcrPull"
  principal_id         = azurerm_user_assigned_identity.ferry.principal_id
}

# The state.

resource "random_password" "database" {
  length  = 32
  special = false # it stands in a URL
}

resource "azurerm_postgresql_flexible_server" "state" {
  name                          = "${var.name}-state-${random_string.suffix.result}"
  resource_group_name           = azurerm_resource_group.ferry.name
  location                      = azurerm_resource_group.ferry.location
  version                       = "17"
  sku_name                      = var.database_sku
  storage_mb                    = 32768
  administrator_login           = "ferry"
  administrator_password        = random_password.database.result
  backup_retention_days         = 7
  delegated_subnet_id           = var.database_subnet
  private_dns_zone_id           = var.database_dns_zone
  public_network_access_enabled = false
  tags                          = local.tags
  lifecycle {
    ignore_changes = [zone]
  }
}

resource "azurerm_postgresql_flexible_server_database" "state" {
  name      = "ferry"
  server_id = azurerm_postgresql_flexible_server.state.id
}

# The instances.

resource "azurerm_log_analytics_workspace" "ferry" {
  name                = var.name
  resource_group_name = azurerm_resource_group.ferry.name
  location            = azurerm_resource_group.ferry.location
  retention_in_days   = 30
  tags                = local.tags
}

resource "azurerm_container_app_environment" "ferry" {
  name                       = var.name
  resource_group_name        = azurerm_resource_group.ferry.name
  location                   = azurerm_resource_group.ferry.location
  logs_destination           = "log-analytics"
  log_analytics_workspace_id = azurerm_log_analytics_workspace.ferry.id
  infrastructure_subnet_id   = var.apps_subnet
  tags                       = local.tags
  workload_profile {
    name                  = "Consumption"
    workload_profile_type = "Consumption"
  }
}

resource "azurerm_container_app" "ferry" {
  name                         = var.name
  container_app_environment_id = azurerm_container_app_environment.ferry.id
  resource_group_name          = azurerm_resource_group.ferry.name
  revision_mode                = "Single"
  workload_profile_name        = "Consumption"
  tags                         = local.tags
  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.ferry.id]
  }
  dynamic "registry" {
    for_each = var.registry == null ? [] : [var.registry.server]
    content {
      server   = registry.value
      identity = azurerm_user_assigned_identity.ferry.id
    }
  }
  dynamic "secret" {
    for_each = local.secret_names
    content {
      name  = lower(replace(secret.value, "_", "-"))
      value = local.secrets[secret.value]
    }
  }
  ingress {
    external_enabled = var.external
    target_port      = 8080
    transport        = "http"
    traffic_weight {
      latest_revision = true
      percentage      = 100
    }
  }
  template {
    min_replicas                     = var.least
    max_replicas                     = var.most
    termination_grace_period_seconds = 60 # drain_delay, grace, and some seconds to close
    http_scale_rule {
      name                = "requests"
      concurrent_requests = "50"
    }
    container {
      name   = "ferry"
      image  = var.image
      cpu    = var.cpu
      memory = var.memory
      dynamic "env" {
        for_each = local.environment
        content {
          name  = env.key
          value = env.value
        }
      }
      dynamic "env" {
        for_each = local.secret_names
        content {
          name        = env.value
          secret_name = lower(replace(env.value, "_", "-"))
        }
      }
      startup_probe {
        transport               = "HTTP"
        path                    = "/livez"
        port                    = 8080
        interval_seconds        = 2
        failure_count_threshold = 30
      }
      liveness_probe {
        transport = "HTTP"
        path      = "/livez"
        port      = 8080
      }
      readiness_probe {
        transport        = "HTTP"
        path             = "/readyz"
        port             = 8080
        interval_seconds = 3
      }
    }
  }
  depends_on = [azurerm_role_assignment.queues, azurerm_role_assignment.registry, azurerm_servicebus_queue.topic]
  lifecycle {
    precondition {
      condition     = !strcontains(file(var.config), "$${")
      error_message = "In variables $${…} means nothing: take it out of the file and give the value by secrets or environment, such as FERRY_PIPELINES_ORDERS_SOURCE_AUTH_BEARER."
    }
  }
}
